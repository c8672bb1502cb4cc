"""Language models from Python, as a user of the library would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advantage
from advantage.adam import FlatAdam
from advantage.cli import main
from advantage.errors import RunFailed, UserError
from advantage.language.agent import Accuracy, LanguageAgent
from advantage.language.evaluation import wilson

QUICK: dict[str, Any] = {"threads": 1, "batch_size": 4, "quiet": True, "checkpoint_every": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    """A short run with evaluations."""
    path = tmp_path_factory.mktemp("api") / "run"
    more = {"eval_every": 1, "eval_episodes": 4, "learning_rate": 1e-3}
    return advantage.train("grpo", "tiny", task="add", run_dir=path, steps=2, **more, **QUICK)


def test_a_policy_generates(run: advantage.Run) -> None:
    text = run.policy.generate("12+34=", seed=1)
    assert text == run.policy.generate([{"role": "user", "content": "12+34="}], seed=1)
    assert text == "".join(run.policy.stream("12+34=", seed=1))
    assert len({run.policy.generate("12+34=", seed=seed) for seed in range(8)}) > 1
    assert run.policy.generate("12+34=", temperature=0, seed=1) == run.policy.generate("12+34=", temperature=0)
    assert len(run.policy.generate("copy abcd", temperature=0, max_tokens=2)) <= 2
    plain = LanguageAgent.of("tiny").generate("<|bos|><|user|>12+34=<|assistant|>", plain=True, temperature=0)
    assert plain == LanguageAgent.of("tiny").generate("12+34=", temperature=0)


def test_evaluation_counts_right_answers(run: advantage.Run) -> None:
    found = run.evaluate(20, seed=3, samples=4)
    assert isinstance(found, Accuracy) and found.task == "add"
    assert found.returns.shape == (20,) and found.sampled.shape == (20, 4)
    assert found.mean == pytest.approx(found.returns.mean()) and found.std == pytest.approx(found.returns.std())
    assert found.interval == wilson(int(found.returns.sum()), 20)
    assert found.pass_at(1) == pytest.approx(found.sampled.mean()) and found.pass_at(4) >= found.pass_at(1)
    again = advantage.load(run.path).evaluate(20, seed=3, samples=4)
    np.testing.assert_array_equal(found.sampled, again.sampled)
    assert len(run.evaluate().returns) == 4


def test_evaluation_is_that_of_the_run_itself(run: advantage.Run) -> None:
    assert run.evaluate(4).mean == pytest.approx(run.metrics()["eval/mean_reward"][-1])


def test_which_policy(run: advantage.Run) -> None:
    for which in (1, 2):
        states, _ = run.reader.policy(which)
        own = dict(run.agent(which).policy.named_parameters())
        assert all(torch.equal(own[name], torch.as_tensor(value)) for name, value in states["policy"].items())
    assert any(not torch.equal(a, b) for a, b in zip(_weights(run.agent(1)), _weights(run.agent(2)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(_weights(run.policy), _weights(run.agent(2)), strict=True))
    run.agent("best").generate("1+1=")
    with pytest.raises(UserError, match="no checkpoint 9"):
        run.agent(9)


def _weights(agent: LanguageAgent) -> list[torch.Tensor]:
    return list(agent.policy.parameters())


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_policy_with_adapters(tmp_path: Path) -> None:
    more = {"lora_rank": 2, "learning_rate": 1e-2}
    run = advantage.train("grpo", "tiny", task="add", run_dir=tmp_path / "run", steps=2, **more, **QUICK)
    trained, _ = run.reader.policy(1)
    for which in ("last", 1):
        own = dict(run.agent(which).policy.named_parameters())
        same = all(torch.equal(own[name], torch.as_tensor(value)) for name, value in trained["policy"].items())
        assert same == (which == 1)
    assert 0 <= run.evaluate(4).mean <= 1


def test_a_run_that_goes_on(run: advantage.Run, tmp_path: Path) -> None:
    more = {"learning_rate": 1e-3}
    whole = advantage.train("grpo", "tiny", task="add", run_dir=tmp_path / "whole", steps=2, **more, **QUICK)
    part = advantage.train("grpo", "tiny", task="add", run_dir=tmp_path / "part", steps=1, **more, **QUICK)
    part = advantage.resume(part.path, steps=2, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(_weights(part.policy), _weights(whole.policy), strict=True))


def test_what_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "run"
    model = torch.nn.Linear(1, 1)
    mistakes: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"task": "add"}, "not a Linear"),
        ("tiny", {"task": "add", "rewards": [len]}, "rewards is a 1 x len; name it"),
        ("tiny", {"task": "add", "rewards": len}, "rewards is a len; name it"),
        ("tiny", {"data": [{"prompt": "a"}]}, "JSON Lines"),
        ("tiny", {"task": "nothing"}, "unknown task"),
        ("tiny", {"task": "add", "lr": 1.0}, "learning_rate"),
    ]
    for target, settings, told in mistakes:
        with pytest.raises(UserError, match=told):
            advantage.train("grpo", target, run_dir=path, **settings)
    assert not path.exists()


def test_rewards_may_be_a_list_of_names(tmp_path: Path) -> None:
    given = {"rewards": ["task", r"regex:^\d{1,3}$*0.1"], **QUICK}
    run = advantage.train("grpo", Path("tiny"), task="add", run_dir=tmp_path / "run", steps=1, **given)
    assert {"rewards/task/mean", r"rewards/regex:^\d{1,3}$/mean"} <= set(run.metrics())
    assert run.world == "language" and "grpo on tiny, finished" in repr(run)


OF_MEMORY = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
        " allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_says_what_takes_less_and_loses_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"task": "add", "steps": 2, "micro_tokens": 4096, "lora_rank": 0, **QUICK}
    whole = advantage.train("grpo", "tiny", run_dir=tmp_path / "whole", **more)
    own, calls = FlatAdam.step, []

    def short(self: FlatAdam) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error
        own(self)

    monkeypatch.setattr(FlatAdam, "step", short)
    words = [f"--set={name}={value}" for name, value in more.items() if name != "quiet"]
    path = tmp_path / "run"
    assert main(["train", "grpo", "tiny", "--run-dir", str(path), "--quiet", *words]) == 1
    told = capsys.readouterr().err
    assert (
        told.count("\n") == 1 and told.startswith("advantage: out of memory; ") and f"advantage resume {path}" in told
    )
    for name in ("micro_tokens (4096)", "batch_size (4)", "num_generations (8)", "max_completion_length"):
        assert name in told
    for name in ("gradient_checkpointing=true", "lora_rank=8"):
        assert name in told
    status = advantage.load(path).reader.status()
    assert status["state"] == "failed" and status["steps"] == 1 and status["error"].startswith("out of memory")
    monkeypatch.undo()
    again = advantage.resume(path, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(_weights(again.policy), _weights(whole.policy), strict=True))


def test_another_error_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: FlatAdam) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(FlatAdam, "step", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        advantage.train("sft", "tiny", task="add", run_dir=tmp_path / "run", steps=1, **QUICK)
    assert not isinstance(caught.value, RunFailed)
