"""Loss and gradient of the language algorithms are TRL's, on ragged batches from the same weights in float32.

TRL's trainers are made without their constructors and given what their loss methods read. GRPO and its variants go
whole: `train` runs with scripted completions, and TRL pads, scores and takes advantages of the same ones by itself.
What FORMULAS.md and TRL name differently is chosen equal: ε beside the standard deviation, CISPO's cap.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from advantage.algorithms import cispo, dapo, dpo, dr_grpo, grpo, gspo, rloo, sft
from advantage.core import fixed_length_mean, group_advantages, sequence_mean, token_mean
from advantage.language.generate import Samples
from advantage.language.pairs import Reference, batch_of_pairs
from advantage.language.policy import LanguagePolicy
from advantage.language.rows import batch_of_rows
from advantage.language.template import render_example
from advantage.language.types import Completion, Prompt
from advantage.trajectory import Batch, Evaluation
from advantage.update import ascend
from tests.algorithms.language_run import LanguageRun, given
from tests.language.small import small_llama

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", minversion="1.16")
    from trl.trainer import dpo_trainer, grpo_trainer, sft_trainer
    from trl.trainer.utils import add_fused_lm_head

TOLERANCE = 1e-5
LEARNING_RATE = 0.05  # of plain gradient descent: far enough in a step for some ratios to leave their band
EOS, PAD, LONGEST, TEMPERATURE = 1, 2, 9, 0.9
FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]


@dataclass(frozen=True)
class Step:
    """A loss and its gradient, all parameters in a row."""

    loss: float
    gradient: torch.Tensor


def apart(ours: Step, theirs: Step) -> float:
    """The larger of the differences of loss and gradient; the gradient's beside its norm where that is above 1."""
    norm = max(1.0, float(theirs.gradient.norm()))
    return max(abs(ours.loss - theirs.loss), float((ours.gradient - theirs.gradient).norm()) / norm)


def llama(seed: int = 0, noise: float = 0.0) -> Any:
    """The same float32 weights for both sides, or such that stand a little beside them."""
    model = small_llama(dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    return model


def for_trl(model: Any, temperature: float = 1.0) -> Any:
    add_fused_lm_head(model, temperature=temperature, outputs=FIELDS)
    return model


def gradient_of(model: Any) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


class Descent(torch.optim.SGD):
    """Plain gradient descent that remembers the gradients."""

    def __init__(self, model: torch.nn.Module, lr: float) -> None:
        super().__init__(model.parameters(), lr)
        self.model, self.gradients = model, []

    def step(self, closure: Any = None) -> Any:
        self.gradients.append(gradient_of(self.model))
        return super().step(closure)


def ours_in_one_step(model: Any, objective: Any, batch: Batch, settings: Any) -> Step:
    optimizer = Descent(model, lr=0.0)
    step = ascend(LanguagePolicy(model), optimizer, objective, batch, settings)
    return Step(-float(step.objective), optimizer.gradients[0])


def trainer_of(kind: type, model: Any, **attributes: Any) -> Any:
    """A trainer of TRL that has met no constructor; in evaluation mode, where nothing is accumulated."""
    trainer = object.__new__(kind)
    alone = SimpleNamespace(
        device=torch.device("cpu"),
        is_main_process=True,
        num_processes=1,
        process_index=0,
        parallelism_config=None,
        autocast=contextlib.nullcontext,
        gather=lambda tensor: tensor,
        gather_for_metrics=lambda tensor: tensor,
        reduce=lambda tensor, reduction: tensor,
    )
    common = {
        "model": model.eval(),
        "accelerator": alone,
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
    }
    for name, value in {**common, **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def ids(rng: np.random.Generator, length: int) -> list[int]:
    return [int(i) for i in rng.integers(3, 61, length)]


# --- given answers ---


def answers() -> list[dict[str, list[int]]]:
    rng = np.random.default_rng(1)
    lengths = [(4, 5), (9, 1), (1, 8), (3, 3), (7, 12)]
    return [{"prompt_ids": ids(rng, p), "completion_ids": ids(rng, c)} for p, c in lengths]


def rows_of_answers() -> list[tuple[Sequence[int], Sequence[bool]]]:
    """With one row in which two spans are learnt, as of a conversation."""
    rows = [render_example(None, example) for example in answers()]  # type: ignore[arg-type]
    turns = ids(np.random.default_rng(2), 10)
    spans = [False, False, True, True, True, False, False, False, True, True]
    return [(row.ids, row.mask) for row in rows] + [(turns, spans)]


def sft_of_trl() -> Step:
    model = for_trl(llama())
    trainer = trainer_of(
        sft_trainer.SFTTrainer,
        model,
        compute_loss_func=None,
        label_smoother=None,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
    )
    examples = [
        {
            "input_ids": list(row),
            "labels": [token if mark else -100 for token, mark in zip(row, mask, strict=True)],
        }
        for row, mask in rows_of_answers()
    ]
    inputs = sft_trainer.DataCollatorForLanguageModeling(pad_token_id=PAD)(examples)
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    return Step(float(loss), gradient_of(model))


def sft_of_ours(objective: Any = sft.objective, **settings: Any) -> Step:
    rows, marks = zip(*rows_of_answers(), strict=True)
    now = sft.Settings(max_grad_norm=1e9, learning_rate=0.0, **settings)
    return ours_in_one_step(llama(), objective, batch_of_rows(rows, marks), now)


@pytest.mark.parametrize("micro_tokens", [None, 1, 25])
def test_sft_is_that_of_trl(micro_tokens: int | None) -> None:
    found = apart(sft_of_ours(micro_tokens=micro_tokens), sft_of_trl())
    print(f"sft, micro_tokens {micro_tokens}: {found:.1e}")
    assert found < TOLERANCE


# --- pairs ---


def pairs() -> list[dict[str, list[int]]]:
    rng = np.random.default_rng(3)
    lengths = [(4, 5, 2), (9, 1, 7), (1, 8, 8), (3, 3, 11), (6, 10, 1)]
    return [{"prompt_ids": ids(rng, p), "chosen_ids": ids(rng, c), "rejected_ids": ids(rng, r)} for p, c, r in lengths]


def dpo_of_trl(beta: float) -> Step:
    model, reference = for_trl(llama()), for_trl(llama(noise=0.02))
    trainer = trainer_of(
        dpo_trainer.DPOTrainer,
        model,
        ref_model=reference,
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    inputs = dpo_trainer.DataCollatorForPreference(pad_token_id=PAD)(pairs())
    loss = trainer._compute_loss(model, inputs, return_outputs=False)
    loss.backward()
    return Step(float(loss), gradient_of(model))


def dpo_of_ours(beta: float, path: Path, objective: Any = dpo.objective, **settings: Any) -> Step:
    now = dpo.Settings(max_grad_norm=1e9, learning_rate=0.0, beta=beta, **settings)
    frozen = LanguagePolicy(llama(noise=0.02))
    places = range(len(pairs()))
    reference = Reference(frozen, pairs(), places, None, path / "reference.safetensors", "", now)  # type: ignore[arg-type]
    batch = batch_of_pairs(pairs(), None)  # type: ignore[arg-type]
    batch = batch.replace(logp_ref=reference.of(places, batch.actions.shape[1]))
    return ours_in_one_step(llama(), objective, batch, now)


@pytest.mark.parametrize("micro_tokens", [None, 1, 40])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_is_that_of_trl(beta: float, micro_tokens: int | None, tmp_path: Path) -> None:
    found = apart(dpo_of_ours(beta, tmp_path, micro_tokens=micro_tokens), dpo_of_trl(beta))
    print(f"dpo, beta {beta}, micro_tokens {micro_tokens}: {found:.1e}")
    assert found < TOLERANCE


# --- completions of groups ---

GROUPS = 3
REWARDS = [1.0, 0.0, 0.25, 0.5, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # the last group has no spread


def samples() -> Samples:
    rng = np.random.default_rng(4)
    prompts = tuple(Prompt(tuple(ids(rng, size)), "", {}, i) for i, size in enumerate((4, 9, 2)))
    completions = []
    for length in (5, 1, 7, 3, 9, 6, 2, 8, 4, 9, 1, 2):
        cut = length == LONGEST
        tokens = (*ids(rng, length - 1), 3 if cut else EOS)
        completions.append(Completion(tokens, (0.0,) * length, "length" if cut else "stop"))
    return Samples(prompts, tuple(completions), ("",) * len(completions))


def scripted(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    return REWARDS


@dataclass(frozen=True)
class Case:
    """The same choice in both libraries' words."""

    module: Any
    theirs: dict[str, Any]
    ours: dict[str, Any]
    stages: grpo.Stages | None = None


CASES = {
    "grpo, sequence mean": Case(grpo, {"loss_type": "grpo"}, {}),
    "grpo, token mean": Case(grpo, {"loss_type": "bnpo"}, {}, replace(grpo.STAGES, reduce=rloo.each_token_alike)),
    "dapo": Case(
        dapo, {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}, {"max_draws": 1}
    ),
    "dr_grpo": Case(dr_grpo, {"loss_type": "dr_grpo", "scale_rewards": "none"}, {}),
    "gspo": Case(
        gspo,
        {"importance_sampling_level": "sequence", "epsilon_low": 0.003, "epsilon_high": 0.004},
        {"eps_low": 0.003, "eps_high": 0.004},
    ),
    "cispo": Case(cispo, {"loss_type": "cispo", "epsilon_high": 1.3}, {"eps_high": 0.3}),  # TRL's cap is absolute
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "one update": {},
    "k3": {"beta": 0.04},
    "two updates": {"epochs": 2},
    "k3, two updates, micro-batches": {"beta": 0.04, "epochs": 2, "micro_tokens": 40},
    "k3 corrected, two updates, rows alone": {"beta": 0.04, "kl_correction": True, "epochs": 2, "micro_tokens": 1},
}


def grpo_of_trl(case: Case, variation: dict[str, Any]) -> list[Step]:
    beta, epochs = variation.get("beta", 0.0), variation.get("epochs", 1)
    model = for_trl(llama(), TEMPERATURE)
    drawn = samples()
    choices = {"epsilon_low": 0.2, "epsilon_high": 0.2, "loss_type": "grpo", "importance_sampling_level": "token"}
    choices |= {"scale_rewards": "group", "mask_truncated_completions": False, **case.theirs}
    absent = dict.fromkeys(("tools", "environments", "environment_factories", "pad_to_multiple_of"))
    trainer = trainer_of(
        grpo_trainer.GRPOTrainer,
        model,
        ref_model=for_trl(llama(noise=0.02), TEMPERATURE),
        **absent,
        **choices,
        beta=beta,
        num_iterations=epochs,
        num_generations_eval=4,
        max_completion_length=LONGEST,
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.ones(1),
        reward_func_names=["scripted"],
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        eos_token_ids=[EOS],
        _tokenizer=SimpleNamespace(pad_token_id=PAD),
        _entropy_bonus_enabled=False,
        _pending_extra_logs={},
        _pending_metrics={},
        _logs=defaultdict(lambda: defaultdict(list), prompt=[], completion=[], advantages=[]),
        args=SimpleNamespace(
            delta=None,
            use_bias_correction_kl=variation.get("kl_correction", False),
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
            per_device_eval_batch_size=len(REWARDS),
            steps_per_generation=1,
        ),
    )
    texts, prompts = list(drawn.texts), [list(drawn.prompts[i // 4].ids) for i in range(len(REWARDS))]
    completions = [list(completion.ids) for completion in drawn.completions]
    trainer._generate = lambda _: (prompts, completions, None, texts, None, {}, None, None)
    trainer._calculate_rewards = lambda *_: torch.tensor(REWARDS)[:, None]
    inputs = trainer._generate_and_score_completions([{"prompt": ""}] * len(REWARDS))
    assert ("old_per_token_logps" in inputs) == (epochs > 1)
    optimizer, steps = Descent(model, LEARNING_RATE), []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = trainer._compute_loss(model, inputs)
        loss.backward()
        optimizer.step()
        steps.append(Step(float(loss), optimizer.gradients[-1]))
    return steps


def grpo_of_ours(case: Case, variation: dict[str, Any], stages: grpo.Stages | None = None) -> list[Step]:
    model = llama()
    optimizer = Descent(model, LEARNING_RATE)
    given_settings = {"advantage_eps": 1e-4, "num_generations": 4, "batch_size": GROUPS, "max_grad_norm": 1e9}
    settings = case.module.Settings(learning_rate=LEARNING_RATE, **{**given_settings, **case.ours, **variation})
    run = LanguageRun(updates=1)
    losses: list[float] = []

    def watched(*arguments: Any) -> Any:
        step = ascend(*arguments)
        losses.append(-float(step.objective))
        return step

    policies = [LanguagePolicy(each, TEMPERATURE) for each in (model, llama(noise=0.02))]
    with given(*policies, optimizer, samples, [scripted], LONGEST), mock.patch.object(grpo, "ascend", watched):
        grpo.train("", settings, run, stages or case.stages or case.module.STAGES)  # type: ignore[arg-type]
    return [Step(*both) for both in zip(losses, optimizer.gradients, strict=True)]


def differences(name: str, variation: str, stages: grpo.Stages | None = None) -> list[float]:
    mine = grpo_of_ours(CASES[name], VARIATIONS[variation], stages)
    return [apart(*both) for both in zip(mine, grpo_of_trl(CASES[name], VARIATIONS[variation]), strict=True)]


BOTH = [(name, variation) for name in CASES for variation in VARIATIONS]
BOTH.remove(("gspo", "k3 corrected, two updates, rows alone"))  # there TRL weighs a token's k3 by its sequence's ratio


@pytest.mark.parametrize(("name", "variation"), BOTH)
def test_the_variants_are_those_of_trl(name: str, variation: str) -> None:
    found = max(differences(name, variation))
    print(f"{name}, {variation}: {found:.1e}")
    assert found < TOLERANCE


# --- one wrong choice shows ---


def length_division_forgotten(gain: torch.Tensor, batch: Batch, now: Any, longest: int) -> torch.Tensor:
    return fixed_length_mean(gain, batch.mask, 1.0, total=batch.sequences)


def counted_in_each_part(gain: torch.Tensor, batch: Batch, now: Any, longest: int) -> torch.Tensor:
    return token_mean(gain, batch.mask, total=batch.counted().tokens)


def unclipped(ratio: torch.Tensor, logp: torch.Tensor, batch: Batch, now: Any) -> torch.Tensor:
    return ratio * batch.advantages


def always_fresh(logp: torch.Tensor, logp_old: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (logp - logp.detach()).exp()


def population(rewards: torch.Tensor, group: torch.Tensor, valid: torch.Tensor, now: Any) -> torch.Tensor:
    return group_advantages(rewards, group, ddof=0, valid=valid, eps=now.advantage_eps)


SEVERAL = "k3, two updates, micro-batches"
WRONG: dict[str, tuple[str, str, dict[str, Callable[..., torch.Tensor]]]] = {
    "no division by length": ("grpo, sequence mean", "one update", {"reduce": length_division_forgotten}),
    "token mean for sequence mean": ("grpo, sequence mean", "one update", {"reduce": rloo.each_token_alike}),
    "tokens counted in each micro-batch": ("dapo", SEVERAL, {"reduce": counted_in_each_part}),
    "cut completions trained on": ("dapo", "one update", {"keep": grpo.every_completion}),
    "ddof 0": ("grpo, token mean", "one update", {"advantages": population}),
    "standard deviation not taken off": ("dr_grpo", "one update", {"advantages": grpo.standardised}),
    "no clip": ("grpo, token mean", "two updates", {"surrogate": unclipped}),
    "old log-probabilities forgotten": ("grpo, token mean", "two updates", {"ratio": always_fresh}),
    "one ratio a token": ("gspo", "two updates", {"ratio": grpo.token_ratio}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_choice_shows(wrong: str) -> None:
    name, variation, changes = WRONG[wrong]
    stages = replace(CASES[name].stages or CASES[name].module.STAGES, **changes)
    found = max(differences(name, variation, stages))
    print(f"{wrong}: {found:.0e}")
    assert found > 10 * TOLERANCE


def mean_of_a_pair_s_tokens(new: Evaluation, batch: Batch, now: Any) -> torch.Tensor:
    lengths = batch.mask.sum(-1, keepdim=True)
    shorter = replace(new, logp=new.logp / lengths)
    return dpo.objective(shorter, batch.replace(logp_ref=batch.logp_ref / lengths), now)


def each_answer_alike(new: Evaluation, batch: Batch, now: Any) -> torch.Tensor:
    return sequence_mean(new.logp, batch.mask, total=batch.sequences)


def test_one_wrong_choice_shows_in_given_data_too(tmp_path: Path) -> None:
    found = {
        "sequence mean in sft": apart(sft_of_ours(each_answer_alike), sft_of_trl()),
        "mean of log-probabilities in dpo": apart(dpo_of_ours(0.1, tmp_path, mean_of_a_pair_s_tokens), dpo_of_trl(0.1)),
    }
    print(", ".join(f"{name}: {value:.0e}" for name, value in found.items()))
    assert min(found.values()) > 10 * TOLERANCE
