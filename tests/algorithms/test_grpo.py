"""GRPO and its variants: identities through the very functions, each stage by itself, whole trainings of `tiny`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import advantage
from advantage.algorithms import cispo, dapo, dr_grpo, grpo, gspo, reinforce_pp, rloo
from advantage.core import group_mean, policy_gradient, terminal_reward
from advantage.errors import RunFailed, UserError
from advantage.language.generate import Samples
from advantage.language.policy import LanguagePolicy
from advantage.language.rewards import Scored
from advantage.language.types import Completion, Prompt
from advantage.settings import resolve
from advantage.update import estimate
from tests.algorithms.language_run import LanguageRun, given
from tests.language.small import small_llama, with_precise_norms

VARIANTS = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "gspo": gspo,
    "cispo": cispo,
}
EOS, LONGEST = 1, 6
Reward = float | None


def samples(rewards: Sequence[Sequence[Reward]], first: int = 0, salt: int = 0) -> Samples:
    """Judged completions of lengths 1, 2, …: a group a row, None for a completion without a reward.

    Args:
        rewards: of the completions.
        first: index of the first prompt.
        salt: changes the tokens of completions that have no reward.
    """
    flat = [reward for group in rewards for reward in group]
    prompts = tuple(Prompt((3, 4 + i, 5), f"p{first + i}", {}, first + i) for i in range(len(rewards)))
    completions = []
    for row, reward in enumerate(flat):
        length, other = row % LONGEST + 1, salt if reward is None else 0
        body = [7 + (5 * row + 3 * t + other) % 50 for t in range(length)]
        cut = length == LONGEST
        completions.append(
            Completion((*body[:-1], body[-1] if cut else EOS), (0.0,) * length, "length" if cut else "stop")
        )
    total = torch.tensor([reward or 0.0 for reward in flat])
    valid = torch.tensor([reward is not None for reward in flat])
    scored = Scored(total, valid, {"scripted": flat}, None, {}, int((~valid).sum()))
    return Samples(prompts, tuple(completions), ("",) * len(flat), scored)


SPREAD = [[1.0, 0.0, 0.5], [0.0, 0.25, 0.0], [2.0, 1.0, -1.0]]


class Plain(torch.optim.SGD):
    """Gradient descent that remembers its last gradient."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.0)
        self.model = model

    def step(self, closure: Any = None) -> Any:
        self.gradient = torch.cat([p.grad.flatten() for p in self.model.parameters()])
        return super().step(closure)


def trained(
    drawn: Samples, module: Any = grpo, stages: grpo.Stages | None = None, **settings: Any
) -> tuple[Tensor, LanguageRun]:
    """One update of `train` on these completions in float64: the gradient of its last step, and the run."""
    model = with_precise_norms(small_llama())
    optimizer, run = Plain(model), LanguageRun(updates=1)
    assert drawn.scored is not None
    rewards = list(drawn.scored.by_name["scripted"])

    def scripted(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[Reward]:
        return rewards

    plain = {"learning_rate": 0.0, "max_grad_norm": 1e9, "num_generations": drawn.n, "batch_size": len(drawn.prompts)}
    now = module.Settings(**{**plain, **settings})
    reference = LanguagePolicy(small_llama(seed=1))
    with given(LanguagePolicy(model), reference, optimizer, lambda: drawn, [scripted], LONGEST):
        grpo.train("", now, run, stages or module.STAGES)  # type: ignore[arg-type]
    return optimizer.gradient, run


# --- identities ---


def by_gae(drawn: Samples, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of completions whose critic says the group's mean at every token."""
    rollout = drawn.rollout()
    baseline = group_mean(drawn.rewards, rollout.group)[:, None].expand(rollout.mask.shape)
    rewards = terminal_reward(drawn.rewards, rollout.mask)
    return estimate(rollout.replace(rewards=rewards, values=baseline, next_values=baseline), gamma=1.0, lam=lam)


def test_the_group_mean_as_critic_makes_gae_the_group_s_advantages() -> None:
    drawn = samples(SPREAD)
    rollout = drawn.rollout()
    advantages, returns = by_gae(drawn, lam=1.0)
    centred = dr_grpo.STAGES.advantages(drawn.rewards, rollout.group, drawn.valid, dr_grpo.Settings())
    for found, each in ((advantages, centred), (returns, drawn.rewards)):
        torch.testing.assert_close(found[rollout.mask], each[:, None].expand(rollout.mask.shape)[rollout.mask])
    scaled = grpo.STAGES.advantages(drawn.rewards, rollout.group, drawn.valid, grpo.Settings(advantage_eps=0.0))
    torch.testing.assert_close(scaled * drawn.rewards.view(3, 3).std(-1).repeat_interleave(3), centred)
    other = by_gae(drawn, lam=0.9)[0]  # no other trace does: the reward stands on the last token
    assert float((other - centred[:, None])[rollout.mask].abs().max()) > 0.1


def spied(stages: grpo.Stages, seen: list[Tensor]) -> grpo.Stages:
    def ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
        found = stages.ratio(logp, logp_old, mask)
        seen.append(found.detach()[mask])
        return found

    return replace(stages, ratio=ratio)


@pytest.mark.parametrize("settings", [{}, {"micro_tokens": 12}])
@pytest.mark.parametrize("name", VARIANTS)
def test_with_one_update_every_ratio_is_exactly_1(name: str, settings: dict[str, Any]) -> None:
    seen: list[Tensor] = []
    module = VARIANTS[name]
    _, run = trained(samples(SPREAD), module, spied(module.STAGES, seen), **settings)
    assert seen and all((ratio == 1.0).all() for ratio in seen)
    assert "train/first_ratio_error" not in run.logged[0]


@pytest.mark.parametrize("settings", [{}, {"micro_tokens": 12}, {"minibatch_size": 4}])
def test_with_several_the_first_is_1_too(settings: dict[str, Any]) -> None:
    _, run = trained(samples(SPREAD), epochs=2, **settings)
    assert run.logged[0]["train/first_ratio_error"] <= (1e-12 if settings else 0.0)
    assert run.logged[0]["train/minibatches"] == (6 if "minibatch_size" in settings else 2)


def test_with_one_update_it_is_reinforce_with_the_group_s_advantages() -> None:
    gradient, _ = trained(samples(SPREAD))

    def surrogate(ratio: Tensor, logp: Tensor, batch: Any, now: Any) -> Tensor:
        return policy_gradient(logp, batch.advantages)

    reinforce, _ = trained(samples(SPREAD), stages=replace(grpo.STAGES, surrogate=surrogate))
    torch.testing.assert_close(gradient, reinforce, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_any_split_gives_the_same_gradient(name: str) -> None:
    settings: dict[str, Any] = {"beta": 0.1}
    whole, _ = trained(samples(SPREAD), VARIANTS[name], **settings)
    for micro_tokens in (1, 20):
        split, _ = trained(samples(SPREAD), VARIANTS[name], **settings, micro_tokens=micro_tokens)
        torch.testing.assert_close(split, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_spread_nothing_moves(name: str) -> None:
    gradient, run = trained(samples([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]), VARIANTS[name], **one_draw(name))
    assert not gradient.any()
    assert run.logged[0]["frac_reward_zero_std"] == 1.0


def one_draw(name: str) -> dict[str, int]:
    return {"max_draws": 1} if name == "dapo" else {}


# --- the stages ---

EXCHANGED = {
    "grpo": set(),
    "dr_grpo": {"advantages", "reduce"},
    "dapo": {"collect", "shape", "keep", "reduce"},
    "rloo": {"advantages", "reduce"},
    "reinforce_pp": {"advantages", "reduce"},
    "gspo": {"ratio"},
    "cispo": {"surrogate", "reduce"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_exchanges_what_its_file_says(name: str) -> None:
    own = VARIANTS[name].STAGES
    names = {field.name for field in fields(own) if getattr(own, field.name) is not getattr(grpo.STAGES, field.name)}
    assert names == EXCHANGED[name]
    for function in ("objective", "train"):
        part = getattr(VARIANTS[name], function)
        assert name == "grpo" or (part.func is getattr(grpo, function) and part.keywords == {"stages": own})


def test_the_advantages_of_each_by_hand() -> None:
    rewards, group = torch.tensor([1.0, 0.0, 2.0, 5.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    everywhere = torch.ones(6, dtype=torch.bool)

    def of(module: Any, **settings: Any) -> list[float]:
        found = module.STAGES.advantages(rewards, group, everywhere, module.Settings(advantage_eps=0.0, **settings))
        return [round(float(a), 4) for a in found]

    assert of(grpo) == [0, -1, 1, 0, 0, 0]
    assert of(dr_grpo) == [0, -1, 1, 0, 0, 0]
    assert of(rloo) == [0, -1.5, 1.5, 0, 0, 0]
    deviation = math.sqrt(sum((r - 3.0) ** 2 for r in rewards.tolist()) / 6)
    assert of(reinforce_pp) == [round((r - 3.0) / deviation, 4) for r in rewards.tolist()]


# --- DAPO ---


def draws(script: Sequence[Sequence[Sequence[Reward]]]) -> tuple[Callable[[], Samples], list[int]]:
    """A draw that gives one batch of groups after another, and how often it was asked."""
    asked: list[int] = []

    def draw() -> Samples:
        asked.append(sum(len(groups) for groups in script[: len(asked)]))
        return samples(script[len(asked) - 1], first=asked[-1])

    return draw, asked


def collected(script: Sequence[Sequence[Sequence[Reward]]], **settings: Any) -> tuple[Samples, int]:
    draw, asked = draws(script)
    found = dapo.STAGES.collect(draw, dapo.Settings(batch_size=2, **settings))
    return found, len(asked)


FLAT, MIXED = [1.0, 1.0], [0.0, 1.0]


def test_groups_are_drawn_until_enough_have_spread() -> None:
    found, asked = collected([[FLAT, MIXED], [FLAT, FLAT], [[1.0, 0.0], [0.5, 1.0]], [MIXED, MIXED]])
    assert asked == 3
    assert [prompt.index for prompt in found.prompts] == [1, 4]  # the fifth has spread and no place is left for it
    assert found.rewards.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert found.scored is not None and found.scored.by_name == {"scripted": [0.0, 1.0, 1.0, 0.0]}
    assert [len(found.completions), found.n, found.rollout().group.tolist()] == [4, 2, [0, 0, 1, 1]]  # type: ignore[union-attr]


def test_the_draws_are_bounded_and_what_was_found_is_taken() -> None:
    found, asked = collected([[FLAT, MIXED], [FLAT, FLAT], [MIXED, MIXED]], max_draws=2)
    assert (asked, [prompt.index for prompt in found.prompts]) == (2, [1])


def test_without_any_spread_the_run_fails_in_one_line_unless_one_draw_is_all() -> None:
    assert len(collected([[FLAT, FLAT], [MIXED, MIXED]], max_draws=1)[0].prompts) == 2
    with pytest.raises(RunFailed, match="^no group of 3 batches has spread") as caught:
        collected([[FLAT, FLAT]] * 4, max_draws=3)
    assert "\n" not in str(caught.value)


def test_a_reward_that_is_missing_makes_no_spread() -> None:
    found, asked = collected([[[1.0, None], [None, None]], [MIXED, [None, 1.0]], [MIXED, MIXED]])
    assert (asked, [prompt.index for prompt in found.prompts]) == (3, [2, 4])


def test_cut_completions_keep_their_reward_in_the_statistics() -> None:
    drawn = samples(SPREAD)
    cut = [row for row, one in enumerate(drawn.completions) if one.finish_reason == "length"]
    assert cut == [5]
    rollout = drawn.rollout()
    kept = dapo.STAGES.keep(rollout, dapo.Settings())
    assert not kept[cut].any() and torch.equal(kept[[0, 1, 2, 3, 4, 6, 7, 8]], rollout.mask[[0, 1, 2, 3, 4, 6, 7, 8]])
    assert torch.equal(dapo.STAGES.keep(rollout, dapo.Settings(overlong_filter=False)), rollout.mask)
    right, run = trained(drawn, dapo)
    assert run.logged[0]["reward"] == pytest.approx(float(drawn.rewards.mean()))
    more = [list(group) for group in SPREAD]
    more[1][2] = 3.0  # of the completion that was cut: the others of its group must feel it
    assert float((trained(samples(more), dapo)[0] - right).norm()) > 0.01


def test_tokens_of_cut_completions_change_nothing() -> None:
    drawn = samples(SPREAD)
    others = list(drawn.completions)
    others[5] = replace(others[5], ids=(9, 9, 8, 9, 9, 9))
    gradient, _ = trained(drawn, dapo)
    assert torch.equal(gradient, trained(replace(drawn, completions=tuple(others)), dapo)[0])
    unfiltered = [
        trained(each, dapo, overlong_filter=False)[0] for each in (drawn, replace(drawn, completions=tuple(others)))
    ]
    assert not torch.equal(*unfiltered)


def test_a_long_completion_is_punished_towards_the_limit() -> None:
    drawn = samples([[0.0] * LONGEST])
    shaped = dapo.STAGES.shape(drawn, dapo.Settings(overlong_cache=4), LONGEST)
    assert shaped.tolist() == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0]
    assert dapo.STAGES.shape(drawn, dapo.Settings(), LONGEST) is drawn.rewards


# --- completions without a reward ---

MISSING: list[list[Reward]] = [[1.0, 0.0, None, 0.5], [None, 0.25, 1.0, 0.0]]


@pytest.mark.parametrize("name", VARIANTS)
def test_an_excluded_completion_trains_nothing_and_changes_nothing(name: str) -> None:
    settings: dict[str, Any] = {"beta": 0.1, **one_draw(name)}
    module = VARIANTS[name]
    gradient, run = trained(samples(MISSING), module, **settings)
    assert torch.equal(gradient, trained(samples(MISSING, salt=11), module, **settings)[0])
    drawn, rows = samples(MISSING), [0, 1, 3, 5, 6, 7]
    assert drawn.scored is not None
    scored = replace(
        drawn.scored,
        total=drawn.rewards[rows],
        valid=drawn.valid[rows],
        by_name={"scripted": [drawn.scored.by_name["scripted"][row] for row in rows]},
    )
    alone = Samples(drawn.prompts, tuple(drawn.completions[row] for row in rows), ("",) * 6, scored)
    torch.testing.assert_close(trained(alone, module, **settings)[0], gradient, rtol=1e-9, atol=1e-10)
    logged = run.logged[0]
    assert (logged["completions/unscored"], logged["reward"]) == (2.0, pytest.approx(2.75 / 6))
    trained_on = [0, 1, 3, 5, 6, 7] if name != "dapo" else [0, 1, 3, 6, 7]  # there the cut one is filtered too
    assert run.rollouts[0].mask.any(-1).nonzero().flatten().tolist() == trained_on


@pytest.mark.parametrize("name", VARIANTS)
def test_without_any_reward_the_run_fails_in_one_line(name: str) -> None:
    with pytest.raises(RunFailed, match="no completion is left|no group") as caught:
        trained(samples([[None, None], [None, None]]), VARIANTS[name])
    assert "\n" not in str(caught.value)


# --- whole trainings ---

SHORT: dict[str, Any] = {
    "task": "add",
    "steps": 3,
    "batch_size": 4,
    "num_generations": 4,
    "threads": 1,
    "learning_rate": 1e-3,
    "quiet": True,
}
NAMES = {
    *("reward", "reward_std", "frac_reward_zero_std", "rewards/task/mean", "rewards/failures", "num_tokens"),
    *(f"completions/{name}" for name in ("mean_length", "clipped_ratio", "repetition", "unscored")),
    *(f"train/{name}" for name in ("loss", "entropy", "gradient_norm", "learning_rate", "advantage_std")),
    *("time/generate", "time/reward", "time/update"),
}


def weights(run: advantage.Run) -> bytes:
    return (run.path / "policy" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_of_tiny_depends_on_its_seed_alone(name: str, tmp_path: Path) -> None:
    first, again, other = (
        advantage.train(name, "tiny", seed=seed, run_dir=tmp_path / str(i), **SHORT) for i, seed in enumerate((0, 0, 1))
    )
    assert weights(first) == weights(again) != weights(other)
    metrics = first.metrics()
    assert set(metrics) >= NAMES
    assert metrics["update"].tolist() == [1, 2, 3]
    assert all(math.isfinite(value) for key in NAMES for value in metrics[key])
    assert first.reader.status()["state"] == "finished"


def test_a_training_with_everything_on(tmp_path: Path) -> None:
    more = {"beta": 0.05, "kl_correction": True, "epochs": 2, "minibatch_size": 8, "micro_tokens": 64, "eval_every": 2}
    run = advantage.train("grpo", "tiny", run_dir=tmp_path / "run", **SHORT, **more, eval_episodes=8)
    metrics = run.metrics()
    assert set(metrics) >= NAMES | {"train/approx_kl", "train/clip_fraction", "train/ratio_max", "eval/mean_reward"}
    assert metrics["train/minibatches"].tolist() == [4.0, 4.0, 4.0]
    assert max(metrics["train/first_ratio_error"]) < 1e-4


def test_when_all_are_cut_the_run_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="no completion is left to train on") as caught:
        advantage.train("dapo", "tiny", run_dir=tmp_path / "run", **SHORT, max_completion_length=1, max_draws=1)
    assert "\n" not in str(caught.value)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["steps"]) == ("failed", 0)


def drawn_twice(folder: Path, seed: int) -> list[dict[str, tuple[Completion, ...]]]:
    """The completions of two prompts, by prompt, in two draws of the first update of a run."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}+87=", "answer": str(i + 87)}) + "\n" for i in (36, 58)))
    seen: list[Samples] = []

    def twice(draw: Callable[[], Samples], now: Any) -> Samples:
        seen.extend((draw(), draw()))
        return seen[-1]

    stages = replace(grpo.STAGES, collect=twice)
    settings = resolve(grpo.Settings, {"data": str(data), "task": "add", "batch_size": 2, "threads": 1})
    grpo.train("tiny", settings, LanguageRun(updates=1, seed=seed), stages)  # type: ignore[arg-type]
    return [{str(p.shown): s.completions[s.n * i : s.n * (i + 1)] for i, p in enumerate(s.prompts)} for s in seen]


def test_another_seed_draws_other_completions(tmp_path: Path) -> None:
    (first, _), (again, _), (other, _) = (drawn_twice(tmp_path, seed) for seed in (0, 0, 1))
    assert first == again
    assert all(first[prompt] != other[prompt] for prompt in first)


def test_a_prompt_that_is_drawn_again_gets_other_completions(tmp_path: Path) -> None:
    first, second = drawn_twice(tmp_path, seed=0)
    assert all(first[prompt] != second[prompt] for prompt in first)


# --- what cannot be ---


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("grpo", {"eps_low": -0.1}, "eps_low is -0.1; it must be at least 0"),
        ("dapo", {"eps_high": -0.1}, "eps_high is -0.1; it must be at least 0"),
        ("gspo", {"eps_low": "lin_-1e-4"}, "eps_low is lin_-1e-4; it must be at least 0"),
        ("grpo", {"beta": -0.01}, "beta is -0.01; it must be at least 0"),
        ("rloo", {"temperature": 0}, "temperature is 0.0; it must be above 0"),
        ("dapo", {"max_draws": 0}, "max_draws is 0; it must be at least 1"),
        ("cispo", {"kl_coef": 0.1}, "kl_coef is called beta here"),
        ("grpo", {"top_p": 0.9}, "top_p is 0.9 and top_k 0; what is trained on is sampled at top_p=1"),
        ("grpo", {"top_k": 5}, "top_p is 1 and top_k 5"),
        ("grpo", {"num_generations": 1}, "num_generations is 1"),
        ("grpo", {"rewards": "exakt"}, "exact"),
        ("grpo", {"task": "ad"}, "add"),
        ("grpo", {"task": ""}, "neither data nor task is given"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    name: str, given: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        advantage.train(name, "tiny", run_dir=tmp_path / "run", **{**SHORT, **given})
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_wide_baseline_needs_no_group(tmp_path: Path) -> None:
    run = advantage.train("reinforce_pp", "tiny", run_dir=tmp_path / "run", **{**SHORT, "num_generations": 1})
    assert any(run.metrics()["train/gradient_norm"] > 0)
