"""DPO: where it begins, what its pieces weigh, a reference that is computed once, and that it learns its pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import advantage
from advantage.algorithms import dpo
from advantage.errors import UserError
from advantage.language.pairs import Reference, batch_of_pairs, digest_of
from advantage.language.policy import LanguagePolicy
from advantage.trajectory import Batch, Evaluation
from advantage.update import Step, ascend
from tests.language.small import small_llama

Pair = dict[str, list[int]]


def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    lengths = [(4, 5, 2), (9, 1, 7), (1, 8, 8), (3, 3, 11)]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {name: [int(i) for i in rng.integers(3, 61, n)] for name, n in zip(names, of, strict=True)} for of in lengths
    ]


class Counted(LanguagePolicy):
    """Counts how often it is asked."""

    calls = 0

    def evaluate(self, batch: Batch) -> Evaluation:
        self.calls += 1
        return super().evaluate(batch)


NOW = dpo.Settings(max_grad_norm=1e9, micro_tokens=None, beta=0.3)


def reference_of(
    policy: LanguagePolicy, path: Path, given: Sequence[Pair], indices: Sequence[int], digest: str = "data"
) -> Reference:
    return Reference(policy, given, indices, None, path, digest, NOW)  # type: ignore[arg-type]


def step(given: Sequence[Pair], path: Path, model: Any = None, now: dpo.Settings = NOW) -> tuple[Step, Tensor]:
    """One step against the reference `small_llama(seed=0)` in float64, and its gradient."""
    model = model or small_llama(seed=1)
    reference = reference_of(LanguagePolicy(small_llama()), path, given, range(len(given)))
    batch = batch_of_pairs(given, None)  # type: ignore[arg-type]
    batch = batch.replace(logp_ref=reference.of(range(len(given)), batch.actions.shape[1]).double())
    taken = ascend(LanguagePolicy(model), torch.optim.SGD(model.parameters(), lr=0.0), dpo.objective, batch, now)
    return taken, torch.cat([p.grad.flatten() for p in model.parameters()])


def swapped(given: Sequence[Pair]) -> list[Pair]:
    return [{**pair, "chosen_ids": pair["rejected_ids"], "rejected_ids": pair["chosen_ids"]} for pair in given]


# --- the objective ---


def test_it_begins_at_log_2_with_no_margin(tmp_path: Path) -> None:
    taken, gradient = step(pairs(), tmp_path / "reference.safetensors", model=small_llama())
    assert float(taken.objective) == pytest.approx(-math.log(2), abs=1e-6)
    said = dpo.describe(taken, NOW)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl/pairs"):
        assert said[name] == pytest.approx(0.0, abs=1e-5)
    assert float(gradient.norm()) > 0.1


def test_its_first_gradient_is_half_beta_of_the_difference_of_log_probabilities(tmp_path: Path) -> None:
    _, gradient = step(pairs(), tmp_path / "reference.safetensors", model=small_llama())
    model = small_llama()
    batch = batch_of_pairs(pairs(), None)  # type: ignore[arg-type]
    logp = LanguagePolicy(model).evaluate(batch).logp.sum(-1)
    (-NOW.beta / 2 * (logp[0::2] - logp[1::2]).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)  # the reference stands in its file as float32


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_order_padding_and_split_are_nothing(loss: str, tmp_path: Path) -> None:
    now = replace(NOW, loss=loss)
    whole, gradient = step(pairs(), tmp_path / "a", now=now)
    for name, given, other in (
        ("b", pairs()[::-1], now),
        ("c", pairs(), replace(now, micro_tokens=1)),
        ("d", pairs(), replace(now, micro_tokens=40)),
        ("e", pairs(), replace(now, micro_batch=2)),
    ):
        taken, its_gradient = step(given, tmp_path / name, now=other)
        assert float(taken.objective) == pytest.approx(float(whole.objective), rel=1e-6)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-6)
        # A row's reference numbers are float32 and were scored beside other rows: their last bit may differ.


def test_a_pair_is_never_parted(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    class Watched(LanguagePolicy):
        def evaluate(self, batch: Batch) -> Evaluation:
            assert batch.unit is not None
            asked.append(batch.unit.tolist())
            return super().evaluate(batch)

    batch = batch_of_pairs(pairs(), None)  # type: ignore[arg-type]
    batch = batch.replace(logp_ref=torch.zeros(batch.actions.shape, dtype=torch.float64))
    model = small_llama()
    ascend(
        Watched(model), torch.optim.SGD(model.parameters(), lr=0.0), dpo.objective, batch, replace(NOW, micro_tokens=1)
    )
    assert sorted(asked) == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_label_smoothing_is_symmetric(tmp_path: Path) -> None:
    plain, smooth, half = (replace(NOW, label_smoothing=share) for share in (0.0, 0.2, 0.5))

    def loss(given: Sequence[Pair], now: dpo.Settings, name: str) -> float:
        return -float(step(given, tmp_path / name, now=now)[0].objective)

    right, wrong = loss(pairs(), plain, "a"), loss(swapped(pairs()), plain, "b")
    assert right != pytest.approx(wrong, rel=0.01)
    assert loss(pairs(), smooth, "a") == pytest.approx(0.8 * right + 0.2 * wrong, rel=1e-6)
    assert loss(swapped(pairs()), smooth, "b") == pytest.approx(0.2 * right + 0.8 * wrong, rel=1e-6)
    assert loss(pairs(), half, "a") == pytest.approx(loss(swapped(pairs()), half, "b"), rel=1e-6)


def test_ipo_wants_a_difference_and_no_more(tmp_path: Path) -> None:
    batch = batch_of_pairs(pairs(), None).replace(logp_ref=torch.zeros(8, 11))  # type: ignore[arg-type]
    wanted = 1 / (2 * NOW.beta)
    for difference, loss in ((wanted, 0.0), (wanted + 2.0, 4.0), (wanted - 3.0, 9.0)):
        logp = torch.zeros(8, 11)
        logp[0::2, 0] = difference
        found = dpo.objective(Evaluation(logp=logp), batch, replace(NOW, loss="ipo"))
        assert -float(found) == pytest.approx(loss, abs=1e-5)


def test_the_kl_of_the_pairs_is_that_of_the_policy_from_the_reference() -> None:
    """Two tokens a completion, drawn from the reference: the mean of k3 over them is its KL to the policy."""
    rng = torch.Generator().manual_seed(0)
    reference, policy = (torch.randn(5, generator=rng).double().log_softmax(-1) for _ in range(2))
    tokens = torch.multinomial(reference.exp(), 40_000, replacement=True, generator=rng).view(-1, 2)
    batch = Batch.of_rows({}, tokens, torch.ones_like(tokens, dtype=torch.bool), logp_ref=reference[tokens])
    step = Step(batch, Evaluation(logp=policy[tokens]), torch.zeros(()), 0.0, True)
    exact = 2 * float((reference.exp() * (reference - policy)).sum())
    assert dpo.describe(step, NOW)["kl/pairs"] == pytest.approx(exact, rel=0.05)
    backwards = 2 * float((policy.exp() * (policy - reference)).sum())
    assert abs(backwards - exact) > 0.1 * exact


# --- the reference ---


def test_the_reference_is_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    first = Counted(small_llama())
    made = reference_of(first, path, pairs(), [0, 1, 2, 3])
    assert first.calls == 1 and path.exists()
    again = Counted(small_llama(seed=5))
    read = reference_of(again, path, pairs(), [0, 1, 2, 3])
    assert again.calls == 0
    assert torch.equal(read.of([2, 0], 11), made.of([2, 0], 11))


def test_it_is_what_the_policy_says_of_each_row(tmp_path: Path) -> None:
    policy = LanguagePolicy(small_llama())
    found = reference_of(policy, tmp_path / "reference", pairs(), range(4)).of([3, 1], 11)
    expected = policy.evaluate(batch_of_pairs([pairs()[3], pairs()[1]], None)).logp  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected.float().detach(), rtol=0, atol=1e-5)


def test_what_is_missing_is_added_and_other_data_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "reference"
    policy = Counted(small_llama())
    reference_of(policy, path, pairs(), [0, 2])
    reference_of(policy, path, pairs(), [2, 0, 3])
    assert policy.calls == 2
    reference_of(policy, path, pairs(), range(4))
    assert policy.calls == 3
    reference_of(policy, path, pairs(), range(4), digest="other data")
    assert policy.calls == 4
    assert digest_of("a", "b") != digest_of("a", "c") and digest_of("a", "b") == digest_of("a", "b")


# --- whole trainings ---


def easy(path: Path, count: int = 16) -> Path:
    """A number's double is preferred to a row of letters."""
    lines = [{"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": "zzzz"} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


SHORT: dict[str, Any] = {"batch_size": 8, "threads": 1, "quiet": True}
NAMES = [
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
    *("logps/chosen", "logps/rejected", "train/loss", "train/gradient_norm", "train/learning_rate", "num_tokens"),
]


def test_easy_pairs_are_told_apart(tmp_path: Path) -> None:
    data = easy(tmp_path / "pairs.jsonl")
    settings = {**SHORT, "data": str(data), "steps": 12, "learning_rate": 1e-3}
    run = advantage.train("dpo", "tiny", run_dir=tmp_path / "run", **settings)
    metrics = run.metrics()
    assert all(math.isfinite(value) for name in NAMES for value in metrics[name])
    assert metrics["train/loss"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["rewards/margins"][0] == pytest.approx(0.0, abs=1e-5)
    assert (metrics["rewards/accuracies"][-4:] == 1.0).all()
    assert metrics["rewards/margins"][-1] > 0.5 and metrics["train/loss"][-1] < 0.5
    assert (run.path / "reference.safetensors").exists()


def test_a_training_depends_on_its_seed_alone(tmp_path: Path) -> None:
    data = easy(tmp_path / "pairs.jsonl")
    runs = [
        advantage.train("dpo", "tiny", seed=seed, run_dir=tmp_path / str(i), data=str(data), steps=3, **SHORT)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, again, other = ((run.path / "policy" / "model.safetensors").read_bytes() for run in runs)
    assert first == again != other


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"beta": 0}, "beta is 0.0; it must be above 0"),
        ({"beta": -0.1}, "beta is -0.1; it must be above 0"),
        ({"loss": "hinge"}, "loss is 'hinge'; it must be one of sigmoid, ipo"),
        ({"label_smoothing": 0.6}, "label_smoothing is 0.6; it must be in 0 … 0.5"),
        ({"data": ""}, "neither data nor task is given"),
        ({"data": "", "task": "add"}, "task add has answers and no pairs; name a file of pairs by --data"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = {**SHORT, "data": str(easy(tmp_path / "pairs.jsonl")), "steps": 1, **given}
    with pytest.raises(UserError) as caught:
        advantage.train("dpo", "tiny", run_dir=tmp_path / "run", **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_smoothing_that_the_loss_does_not_have_is_refused():
    with pytest.raises(UserError, match="label_smoothing is 0.1, and loss=ipo has none"):
        dpo.Settings(loss="ipo", label_smoothing=0.1)
