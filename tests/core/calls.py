"""One legal call of every function of the core, for any batch shape, dtype and device: conventions are tried on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage import core

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """Arguments of one shape, the last axis of which is time."""

    shape: tuple[int, ...]
    rng: torch.Generator
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def real(self, *more: int) -> Tensor:
        return torch.randn((*self.shape, *more), generator=self.rng, dtype=torch.float64).to(self.device, self.dtype)

    def logp(self) -> Tensor:
        return -self.real().abs() - 0.05

    def share(self) -> Tensor:
        """Factors in (0, 1)."""
        return self.real().sigmoid()

    def flag(self) -> Tensor:
        return (torch.rand(self.shape, generator=self.rng) < 0.3).to(self.device)

    def mask(self) -> Tensor:
        """Ragged rows, each with a true step where there is one."""
        if not self.shape:
            return torch.tensor(True)
        lengths = torch.randint(1, max(self.shape[-1], 1) + 1, self.shape[:-1], generator=self.rng)
        return (torch.arange(self.shape[-1]) < lengths.unsqueeze(-1)).to(self.device)

    def score(self) -> Tensor:
        return self.real()[..., 0] if self.shape[-1] else self.real().sum(-1)

    def whole(self, below: int) -> Tensor:
        return torch.randint(below, self.shape, generator=self.rng).to(self.device)


@dataclass(frozen=True)
class Call:
    """How a function is called, which arguments it has a gradient in, and what its result is like."""

    arguments: Callable[[Draw], Arguments]
    slopes: tuple[str, ...] = ()
    scalar: bool = False
    mixes_rows: bool = False  # the result of a row depends on the others

    def __call__(self, name: str, arguments: Arguments) -> Tensor:
        return getattr(core, name)(**arguments)


CALLS = {
    "discounts": Call(lambda d: {"terminated": d.flag(), "gamma": 0.9, "dtype": d.dtype}),
    "traces": Call(lambda d: {"cut": d.flag(), "lam": 0.9, "dtype": d.dtype}),
    "discounted_return": Call(
        lambda d: {"rewards": d.real(), "discounts": d.share(), "cut": d.flag(), "next_values": d.real()},
        slopes=("rewards", "discounts", "next_values"),
    ),
    "td_residual": Call(
        lambda d: {"rewards": d.real(), "values": d.real(), "next_values": d.real(), "discounts": d.share()},
        slopes=("rewards", "values", "next_values", "discounts"),
    ),
    "n_step_advantage": Call(
        lambda d: {"delta": d.real(), "discounts": d.share(), "cut": d.flag(), "n": 3}, slopes=("delta", "discounts")
    ),
    "gae": Call(
        lambda d: {"delta": d.real(), "discounts": d.share(), "traces": d.share()},
        slopes=("delta", "discounts", "traces"),
    ),
    "lambda_return": Call(
        lambda d: {"delta": d.real(), "values": d.real(), "discounts": d.share(), "traces": d.share()},
        slopes=("delta", "values", "discounts", "traces"),
    ),
    "terminal_reward": Call(lambda d: {"score": d.score(), "mask": d.mask()}, slopes=("score",)),
    "kl_reward": Call(
        lambda d: {"logp": d.logp(), "logp_ref": d.logp(), "beta": 0.3, "mask": d.mask(), "estimator": "k3"},
        slopes=("logp", "logp_ref"),
    ),
    "overlong_penalty": Call(lambda d: {"lengths": d.whole(200), "max_length": 100, "cache": 40}),
    "group_mean": Call(
        lambda d: {"rewards": d.real(), "group": d.whole(3), "valid": ~d.flag()}, ("rewards",), mixes_rows=True
    ),
    "leave_one_out": Call(
        lambda d: {"rewards": d.real(), "group": d.whole(3), "valid": ~d.flag()}, ("rewards",), mixes_rows=True
    ),
    "group_advantages": Call(
        lambda d: {"rewards": d.real(), "group": d.whole(3), "valid": ~d.flag()}, ("rewards",), mixes_rows=True
    ),
    "standardize": Call(lambda d: {"x": d.real(), "mask": d.mask()}, ("x",), mixes_rows=True),
    "likelihood_ratio": Call(
        lambda d: {"logp": d.logp(), "logp_old": d.logp(), "clamp": 1.0}, slopes=("logp", "logp_old")
    ),
    "sequence_ratio": Call(
        lambda d: {"logp": d.logp(), "logp_old": d.logp(), "mask": d.mask()}, slopes=("logp", "logp_old")
    ),
    "truncated_importance": Call(lambda d: {"logp_old": d.logp(), "logp_sampler": d.logp(), "cap": 1.5}),
    "kl_k1": Call(lambda d: {"logp": d.logp(), "logp_ref": d.logp()}, slopes=("logp", "logp_ref")),
    "kl_k2": Call(lambda d: {"logp": d.logp(), "logp_ref": d.logp()}, slopes=("logp", "logp_ref")),
    "kl_k3": Call(lambda d: {"logp": d.logp(), "logp_ref": d.logp()}, slopes=("logp", "logp_ref")),
    "policy_gradient": Call(lambda d: {"logp": d.logp(), "advantages": d.real()}, slopes=("logp", "advantages")),
    "surrogate": Call(lambda d: {"ratio": d.real().exp(), "advantages": d.real()}, slopes=("ratio", "advantages")),
    "clipped_surrogate": Call(
        lambda d: {
            "ratio": d.real().exp(),
            "advantages": d.real(),
            "eps_low": 0.2,
            "eps_high": 0.3,
            "dual_clip": 2.0,
        },
        slopes=("ratio", "advantages"),
    ),
    "cispo": Call(
        lambda d: {"logp": d.logp(), "ratio": d.real().exp(), "advantages": d.real(), "eps_high": 0.3},
        slopes=("logp", "advantages"),
    ),
    "value_loss": Call(lambda d: {"values": d.real(), "targets": d.real()}, slopes=("values", "targets")),
    "clipped_value_loss": Call(
        lambda d: {"values": d.real(), "values_old": d.real(), "targets": d.real(), "eps": 0.5},
        slopes=("values", "values_old", "targets"),
    ),
    "sarsa_target": Call(
        lambda d: {"rewards": d.real(), "discounts": d.share(), "next_q": d.real(4), "next_actions": d.whole(4)},
        slopes=("rewards", "discounts", "next_q"),
    ),
    "q_learning_target": Call(
        lambda d: {"rewards": d.real(), "discounts": d.share(), "next_q": d.real(4)},
        slopes=("rewards", "discounts", "next_q"),
    ),
    "double_q_target": Call(
        lambda d: {
            "rewards": d.real(),
            "discounts": d.share(),
            "next_q_online": d.real(4),
            "next_q_target": d.real(4),
        },
        slopes=("rewards", "discounts", "next_q_target"),
    ),
    "bradley_terry_loss": Call(
        lambda d: {"chosen": d.real(), "rejected": d.real(), "margin": d.real(), "label_smoothing": 0.1},
        slopes=("chosen", "rejected", "margin"),
    ),
    "implicit_reward": Call(
        lambda d: {"logp": d.logp(), "logp_ref": d.logp(), "beta": 0.1}, slopes=("logp", "logp_ref")
    ),
    "dpo_loss": Call(
        lambda d: {
            "logp_chosen": d.logp(),
            "logp_rejected": d.logp(),
            "ref_chosen": d.logp(),
            "ref_rejected": d.logp(),
            "beta": 0.5,
            "label_smoothing": 0.1,
        },
        slopes=("logp_chosen", "logp_rejected", "ref_chosen", "ref_rejected"),
    ),
    "ipo_loss": Call(
        lambda d: {
            "logp_chosen": d.logp(),
            "logp_rejected": d.logp(),
            "ref_chosen": d.logp(),
            "ref_rejected": d.logp(),
            "beta": 0.5,
        },
        slopes=("logp_chosen", "logp_rejected", "ref_chosen", "ref_rejected"),
    ),
    "token_mean": Call(lambda d: {"x": d.real(), "mask": d.mask()}, ("x",), scalar=True),
    "sequence_mean": Call(lambda d: {"x": d.real(), "mask": d.mask()}, ("x",), scalar=True),
    "fixed_length_mean": Call(lambda d: {"x": d.real(), "mask": d.mask(), "length": 7.0}, ("x",), scalar=True),
}
"""All but the functions of trust_region.py, which speak of parameters, not of steps."""


def draw(name: str, shape: tuple[int, ...], seed: int = 0, **where: Any) -> Arguments:
    return CALLS[name].arguments(Draw(shape, torch.Generator().manual_seed(seed), **where))
