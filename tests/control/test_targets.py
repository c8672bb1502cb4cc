"""What may be named as an environment, and how everything else is refused: one line, the value, the fix."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from advantage.control.environments import make_envs
from advantage.control.targets import count, resolve
from advantage.errors import UserError
from tests.control.scripted import Scripted


def refusal(target: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        make_envs(target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CartPol-v1", "unknown environment 'CartPol-v1': did you mean CartPole-v1"),
        ("cartpole-v1", "did you mean CartPole-v1"),
        ("LunarLander-v2", "environment 'LunarLander-v2' is deprecated; use LunarLander-v3"),
        ("Taxi-v3", "deprecated; use Taxi-v4"),
        ("CartPole-v7", "environment 'CartPole-v7' does not exist; use CartPole-v1"),
        ("CartPole", "environment 'CartPole' needs a version: CartPole-v0, CartPole-v1"),
        ("ALE/Pong-v5", "nothing of 'ALE' is registered; name its module, module:ALE/Pong-v5"),
        ("Zzzzzzzzz-v0", "none of the"),
        ("not an id", "'not an id' is no environment id"),
        ("", "is no environment id"),
        ("no_such_module:Env-v0", "module 'no_such_module' cannot be imported: ModuleNotFoundError"),
        ("math:Env-v0", "unknown environment 'Env-v0'"),
        ("HalfCheetah-v3", "HalfCheetah-v3 cannot be loaded: ImportError"),
    ],
)
def test_unknown_ids(name: str, text: str) -> None:
    assert text in refusal(name)


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("LunarLander-v3", {"continous": True}, "LunarLander-v3 has no argument 'continous': did you mean continuous?"),
        ("CartPole-v1", {"gravity": 9}, "CartPole-v1 has no argument 'gravity'"),
        ("FrozenLake-v1", {"is_slippery": "maybe"}, "FrozenLake-v1: is_slippery is 'maybe'; it must be true or false"),
        ("LunarLander-v3", {"gravity": "low"}, "LunarLander-v3: gravity is 'low'; it must be a number"),
        ("FrozenLake-v1", {"map_name": "9x9"}, "FrozenLake-v1 could not be made with map_name='9x9': KeyError: '9x9'"),
        ("LunarLander-v3", {"gravity": 3.0}, "could not be made with gravity=3.0: AssertionError"),
    ],
)
def test_refused_arguments(name: str, arguments: dict[str, Any], text: str) -> None:
    assert text in refusal(name, env_args=arguments)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("LunarLander-v3", "Box2D", "box2d"), ("Ant-v5", "mujoco", "mujoco")]
)
def test_a_missing_extra_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith(f"gymnasium.envs.{extra}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(name).startswith(f'{name} needs an extra that is not installed: pip install "advantage[{extra}]"')


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        ("CartPole-v1", {"num_envs": 0}, "num_envs must be a whole number of at least 1, not 0"),
        ("CartPole-v1", {"num_envs": 2.5}, "not 2.5"),
        ("CartPole-v1", {"num_envs": True}, "not True"),
        ("CartPole-v1", {"vectorization": "asink"}, "unknown vectorization 'asink': did you mean async"),
        ("CartPole-v1", {"autoreset": "same step"}, "unknown autoreset 'same step': did you mean same_step"),
        (
            Scripted(),
            {"num_envs": 4},
            "num_envs is 4, an environment instance is one environment; leave it away",
        ),
        (Scripted(), {"env_args": {"offset": 1}}, "offset=1 cannot be given to an environment that is made"),
        (Scripted(), {"vectorization": "async"}, "instance cannot be moved to a process"),
        ([Scripted] * 3, {"num_envs": 2}, "num_envs is 2, the list has 3 constructors; leave it away or make it 3"),
        ([], {}, "empty list"),
        ([Scripted, "CartPole-v1"], {}, "holds constructors, not 'CartPole-v1'"),
        (Scripted, {"env_args": {"ofset": 1}}, "Scripted has no argument 'ofset': did you mean offset?"),
        (17, {}, "17 is no environment: give a Gymnasium id"),
        (dict, {}, "dict makes a dict, not a gymnasium.Env"),
        ([Scripted, lambda: gym.make("Pendulum-v1")], {}, "observation spaces are not equivalent"),
    ],
)
def test_targets_that_do_not_fit(target: Any, options: dict[str, Any], text: str) -> None:
    assert text in refusal(target, **options)


def test_one_instance_for_several_environments_is_refused() -> None:
    shared = Scripted()
    assert "makes the same environment twice" in refusal(lambda: shared, num_envs=2)


def test_instances_constructors_and_lists_are_taken() -> None:
    assert make_envs(Scripted()).num_envs == 1
    assert make_envs(Scripted).num_envs == 1
    assert make_envs(Scripted, 3, env_args={"offset": 2}).vector.envs[2].unwrapped.offset == 2
    assert make_envs([Scripted, lambda: Scripted(1)]).num_envs == 2


def test_a_target_says_how_many_environments_it_is() -> None:
    vector = gym.vector.SyncVectorEnv([Scripted] * 3)
    assert [count(target) for target in (vector, Scripted(), [Scripted] * 2, Scripted, "CartPole-v1")] == [
        3,
        1,
        2,
        None,
        None,
    ]


def test_nothing_is_built_before_the_target_is_understood() -> None:
    built = []

    def constructor(size: int = 3) -> gym.Env[Any, Any]:
        built.append(size)
        return Scripted()

    target = resolve(constructor, 4, {}, None)
    assert built == []
    assert len(target.constructors) == 4


MODULE = """
import gymnasium
from tests.control.scripted import Scripted

gymnasium.register("{name}-v0", Scripted, max_episode_steps=3)
"""


def test_a_module_of_the_user_s_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_envs.py").write_text(MODULE.format(name="Theirs"))
    (tmp_path / "their_broken_envs.py").write_text("import nothing_like_it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    envs = make_envs("their_envs:Theirs-v0", 2)
    envs.start(0)
    assert envs.num_envs == 2
    assert "did you mean Theirs-v0" in refusal("their_envs:Their-v0")
    assert "No module named 'nothing_like_it'" in refusal("their_broken_envs:X-v0")
    del gym.registry["Theirs-v0"]
