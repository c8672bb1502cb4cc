"""Where peers compute something else than the formulas say: their constants, by name.

A formula never takes a dialect's name, it takes a constant (`standardize(…, ddof=)`); an algorithm reads the constants
of the dialect that its settings name.

| constant | advantage | sb3 (Stable-Baselines3 2.9.2) |
|---|---|---|
| `advantage_ddof`, std of a minibatch's advantages | 0 | 1 |
| `lone_advantage`, what a minibatch of one row does | becomes 0 | stays raw |
| `value_clip`, how the critic's clip reads | max of both errors | the clipped error alone |
| `schedule_after_rollout`, the moment that a schedule is read at | before the rollout | after it |
| `kl_stop`, early stop where the KL exceeds this times `target_kl` | 1.5 | 1.5 |
| `kl_reversed`, the KL of TRPO's trust region | KL(π_old‖π) | KL(π‖π_old) |
| `kl_per_entry`, and what it is of an action of several numbers or bits | their sum | their mean |
| `search_noise`, std of the numbers that TRPO's conjugate gradient starts from | 0 | 1e-4 |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """The constants in which control libraries differ."""

    advantage_ddof: int = 0
    lone_advantage: str = "zero"  # or "raw"
    value_clip: str = "max"  # or "plain"
    schedule_after_rollout: bool = False
    kl_stop: float = 1.5
    kl_reversed: bool = False
    kl_per_entry: bool = False
    search_noise: float = 0.0


DIALECTS = {
    "advantage": Dialect(),
    "sb3": Dialect(
        advantage_ddof=1,
        lone_advantage="raw",
        value_clip="plain",
        schedule_after_rollout=True,
        kl_reversed=True,
        kl_per_entry=True,
        search_noise=1e-4,
    ),
}
