"""sft → reward model → rlhf → evaluation: a run with two in it, each beginning where another ended, none made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import advantage
from advantage import pipeline
from advantage.algorithms import reward_model, rlhf, sft
from advantage.cli import main
from advantage.errors import RunFailed, UserError
from advantage.language import tiny
from advantage.language.evaluation import wilson
from advantage.language.models import load_model
from advantage.language.scalar import load_scalar
from advantage.runs.interrupt import Interrupted

PHASES = ("sft", "reward_model")
SMALL: dict[str, Any] = {
    "task": "add",
    "threads": 1,
    "batch_size": 4,
    "minibatch_size": 4,
    "steps": 2,
    "eval_episodes": 6,
    "checkpoint_every": 0,
    "quiet": True,
    "learning_rate": 1e-4,
    "sft": {"steps": 2, "batch_size": 4, "learning_rate": 5e-3},
    "reward_model": {"steps": 3, "batch_size": 4},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sums with their answers, and pairs of a right and a wrong one."""
    folder = tmp_path_factory.mktemp("data")
    files = {name: folder / f"{name}.jsonl" for name in ("sft_data", "pairs")}
    sums = [(f"{i}+{i + 3}=", str(2 * i + 3), str(3 * i + 9)) for i in range(20)]
    rows: dict[str, list[dict[str, str]]] = {
        "sft_data": [{"prompt": prompt, "completion": right} for prompt, right, _ in sums],
        "pairs": [{"prompt": prompt, "chosen": right, "rejected": wrong} for prompt, right, wrong in sums],
    }
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    return {name: str(file) for name, file in files.items()}


@pytest.fixture(scope="module")
def whole(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    """A chain that nothing has stopped."""
    return advantage.train("rlhf", "tiny", run_dir=tmp_path_factory.mktemp("chain") / "run", **data, **SMALL)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: Any = load_model(str(folder))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_each_phase_begins_where_the_one_before_it_ended(whole: advantage.Run) -> None:
    chain = whole.chain()
    assert list(chain) == [*PHASES, "rlhf"] and chain["rlhf"] is whole
    steps = {name: part.reader.status()["steps"] for name, part in chain.items()}
    assert steps == {"sft": 2, "reward_model": 3, "rlhf": 2}
    targets = {name: part.reader.config["target"] for name, part in chain.items()}
    assert targets == {"sft": "tiny", "reward_model": str(whole.path / "sft/policy"), "rlhf": "tiny"}
    assert load_scalar(str(whole.path / "reward_model/policy")).config.num_labels == 1
    assert "rewards/reward_model/mean" in whole.metrics()
    before, begun, ended = (weights(it) for it in (tiny.FOLDER, whole.path / "sft/policy", whole.path / "policy"))
    moved = {name: float((value - ended[name]).abs().max()) for name, value in begun.items()}
    assert 0 < max(moved.values()) < 1e-3, "four steps of 1e-4 from where sft ended"
    assert max(float((value - before[name]).abs().max()) for name, value in begun.items()) > 4e-3
    whole.policy.generate("1+1=")


def test_its_evaluation_is_that_of_each_model_on_the_same_prompts(whole: advantage.Run, tmp_path: Path) -> None:
    found = whole.evaluation()
    assert found["task"] == "add" and found["prompts"] == 6 and found["steps"] == 2
    assert list(found["accuracy"]) == ["start", "sft", "rlhf"] and 0 <= found["p_value"] <= 1
    for part in ("sft", "rlhf"):
        right = round(6 * whole.chain()[part].evaluate(6, task="add").mean)
        assert found["accuracy"][part] == pytest.approx([right / 6, *wilson(right, 6)])
    shutil.copytree(whole.path, tmp_path / "run")
    longer = advantage.resume(tmp_path / "run", steps=3, quiet=True)
    assert longer.evaluation()["steps"] == 3, "it is made anew where the run has gone on"


def test_a_phase_is_left_out_without_its_data(data: dict[str, str], tmp_path: Path) -> None:
    given = {name: value for name, value in SMALL.items() if name not in PHASES}
    alone = advantage.train("rlhf", "tiny", run_dir=tmp_path / "alone", **given)
    assert list(alone.chain()) == ["rlhf"] and alone.evaluation() == {}
    given |= {"pairs": data["pairs"], "rewards": "task*0.5", "reward_model": {"steps": 1}}
    only = advantage.train("rlhf", "tiny", run_dir=tmp_path / "only", **given)
    assert list(only.chain()) == ["reward_model", "rlhf"]
    assert {"rewards/reward_model/mean", "rewards/task/mean"} <= only.metrics().keys()
    assert list(only.evaluation()["accuracy"]) == ["start", "rlhf"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters_all_the_way(data: dict[str, str], tmp_path: Path) -> None:
    given = {**SMALL, "lora_rank": 2, "critic": "reward_model"}
    run = advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **data, **given)
    for folder in ("sft/policy", "reward_model/policy", "policy"):
        assert (run.path / folder / "adapter_model.safetensors").exists()
    layer, own = "model.layers.0.self_attn.q_proj", advantage.load(run.path).policy.policy.model
    begun = weights(run.path / "sft/policy")[f"{layer}.weight"]
    assert torch.equal(own.get_submodule(f"base_model.model.{layer}").base_layer.weight, begun)


# --- what goes wrong ---


@pytest.mark.parametrize("phase", ["sft", "reward_model", "rlhf"])
def test_a_chain_goes_on_in_the_phase_where_it_stopped(
    phase: str, whole: advantage.Run, data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"sft": sft, "reward_model": reward_model, "rlhf": rlhf}
    own = modules[phase].train

    class Stopping:
        """A run that fails when its second update begins."""

        def __init__(self, run: Any) -> None:
            self.run = run

        def __getattr__(self, name: str) -> Any:
            return getattr(self.run, name)

        def updates(self, total: int) -> Any:
            for update in self.run.updates(total):
                if update.index == 1:
                    raise RunFailed("the lights went out")
                yield update

    monkeypatch.setattr(modules[phase], "train", lambda target, now, run: own(target, now, Stopping(run)))
    with pytest.raises(RunFailed, match="the lights went out"):
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **data, **SMALL)
    stopped = advantage.load(tmp_path / "run")
    assert stopped.reader.status()["state"] == "failed" and stopped.evaluation() == {}
    monkeypatch.setattr(modules[phase], "train", own)
    run = advantage.resume(tmp_path / "run", quiet=True)
    attempts = {name: len(part.reader.attempts()) for name, part in run.chain().items()}
    assert attempts == {name: 2 if name == phase else 1 for name in modules}
    for folder in ("sft/policy", "reward_model/policy", "policy"):
        assert (run.path / folder / "model.safetensors").read_bytes() == (
            whole.path / folder / "model.safetensors"
        ).read_bytes()
    assert run.evaluation() == whole.evaluation()


def test_a_kill_before_config_toml_leaves_nothing_in_the_way(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        (tmp_path / "run/reward_model").mkdir()
        (tmp_path / "run/reward_model/lock").touch()
        raise RunFailed("killed")

    monkeypatch.setattr(sft, "train", killed)
    with pytest.raises(RunFailed):
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **data, **SMALL)
    monkeypatch.undo()
    assert advantage.resume(tmp_path / "run", quiet=True).reader.status()["state"] == "finished"


def test_ctrl_c_in_a_phase_says_how_to_go_on(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reward_model, "train", interrupted)
    with pytest.raises(Interrupted, match=r"stopped in reward_model; `advantage resume .*run` continues"):
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **data, **SMALL)
    assert advantage.load(tmp_path / "run").reader.status()["state"] == "stopped"
    monkeypatch.setattr(sft, "train", interrupted)
    with pytest.raises(Interrupted, match="nothing is kept"):
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "other", **data, **SMALL)
    assert not (tmp_path / "other").exists()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no answers": ({"sft_data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    "no pairs": ({"pairs": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    "broken": ({"pairs": "{broken}"}, "broken.jsonl:2"),
    "answers for pairs": ({"pairs": "{sft_data}"}, "chosen"),
    "setting": ({"sft.stepps": 3}, "sft: there is no setting 'stepps'; did you mean steps"),
    "range": ({"reward_model": {"label_smoothing": 0.7}}, "reward_model: label_smoothing is 0.7"),
    "no phase": ({"sft_data": "", "sft.steps": 3}, "sft.steps is given, and no data for that phase"),
    "reward": ({"rewards": "exakt"}, "did you mean exact"),
    "no reward": ({"pairs": "", "task": "", "data": "{sft_data}", "reward_model": {}}, "no reward"),
    "critic": ({"pairs": "", "critic": "reward_model", "reward_model": {}}, "no reward of the run is one"),
    "task": ({"task": "ad"}, "did you mean add"),
    "column": ({"task": "", "data": "{pairs}", "rewards": "exact"}, "needs a column 'answer'; the data have chosen"),
    "evaluations": ({"task": "", "data": "{pairs}", "eval_every": 1}, "no task is given whose held-out prompts"),
    "nothing to prompt with": ({"task": ""}, "neither data nor task"),
    "a list": ({"pairs": [1]}, "name it (a file of JSON Lines)"),
}


@pytest.mark.parametrize(("given", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_any_phase_is_found_before_the_first(
    given: dict[str, Any], told: str, data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.jsonl").write_text(Path(data["pairs"]).read_text().splitlines()[0] + '\n{"prompt": \n')
    files = {**data, "broken": str(tmp_path / "broken.jsonl")}
    filled = {name: it.format(**files) if isinstance(it, str) else it for name, it in given.items()}
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("the first phase has begun"))
    with pytest.raises(UserError) as caught:
        advantage.train("rlhf", "tiny", run_dir=tmp_path / "run", **{**data, **SMALL, **filled})
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# --- the command line ---


def test_one_command_prints_the_chain(data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {name: value for name, value in SMALL.items() if name not in (*PHASES, "quiet", "task")}
    settings |= {"sft.steps": 2, "sft.batch_size": 4, "reward_model.steps": 1}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [
        "train",
        "rlhf",
        "tiny",
        "--sft-data",
        data["sft_data"],
        "--pairs",
        data["pairs"],
        "--task",
        "add",
        *words,
    ]
    assert main([*command, "--run-dir", str(tmp_path / "run"), "--quiet", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["sft", "reward_model", "rlhf", "evaluation"]
    found = json.loads(lines[-1])
    steps = {name: row["steps"] for name, row in found["chain"].items()}
    assert steps == {"sft": 2, "reward_model": 1, "rlhf": 2}
    assert found["evaluation"] == pipeline.evaluation(tmp_path / "run") and found["steps"] == 2
    assert main(["resume", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert main([*command, "--dry-run"]) == 0
    toml = tmp_path / "settings.toml"
    toml.write_text(capsys.readouterr().out)
    assert "sft = {steps = 2, batch_size = 4}" in toml.read_text()
    assert main(["train", "rlhf", "tiny", "--config", str(toml), "--set", "sft.steps=5", "--dry-run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]
    assert again["sft"] == {"steps": 5, "batch_size": 4} and again["pairs"] == data["pairs"]
    for algorithm in ("grpo", "ppo"):
        assert main(["train", algorithm, "tiny", "--pairs", data["pairs"]]) == 2
        assert "--pairs" in capsys.readouterr().err
