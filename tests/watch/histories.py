"""Histories for the tests of the tripwires: healthy curves as they look, and one sick history a tripwire."""

from __future__ import annotations

import random
from math import inf, nan

Row = dict[str, float]

HEALTHY_ROW: Row = {
    "rollout/ep_rew_mean": 100.0,
    "rollout/reward_mean": 1.0,
    "rollout/reward_std": 0.5,
    "train/approx_kl": 0.01,
    "train/clip_fraction": 0.1,
    "train/entropy": 0.6,
    "train/explained_variance": 0.7,
    "train/value_loss": 20.0,
    "train/gradient_norm": 5.0,
    "train/gradient_norm_max": 20.0,
    "train/ratio_min": 0.7,
    "train/ratio_max": 1.4,
    "train/first_ratio_error": 1e-6,
    "train/advantage_mean": 0.1,
    "train/advantage_std": 4.0,
    "train/advantage_skew": 0.2,
    "train/value_mean": 40.0,
    "train/return_mean": 40.0,
}


def steady(updates: int, changes: Row | None = None) -> list[Row]:
    """The healthy row over and over, with some keys changed."""
    return [HEALTHY_ROW | (changes or {}) for _ in range(updates)]


def ramp(updates: int, ends: dict[str, tuple[float, float]]) -> list[Row]:
    """Healthy rows in which some keys go in a straight line from one value to another."""
    rows = steady(updates)
    for name, (first, last) in ends.items():
        for t, row in enumerate(rows):
            row[name] = first + (last - first) * t / (updates - 1)
    return rows


def cartpole(seed: int, updates: int = 390) -> list[Row]:
    """Solved, with a dip to 300, and then returns so equal that their explained variance means nothing."""
    rng, rows = random.Random(seed), steady(updates)
    for t, row in enumerate(rows):
        solved = t > updates // 4
        dip = 0.6 if updates // 2 < t < updates // 2 + 30 else 1.0
        row["rollout/ep_rew_mean"] = min(500.0, 20.0 + 5.0 * t) * dip
        row["train/entropy"] = 0.69 - 0.45 * t / updates
        row["train/approx_kl"] = rng.uniform(0.0, 0.05)
        row["train/return_mean"] = 50.0 if solved else 4.0 + 0.4 * t
        row["train/value_loss"] = 5e-6 if solved else 12.0
        row["train/advantage_std"] = 0.003 * rng.uniform(0.5, 2.0) if solved else rng.uniform(1.0, 5.0)
        row["train/advantage_mean"] = -0.0003 if solved else 3.0 * (1.0 - 4.0 * t / updates)
        row["train/explained_variance"] = rng.uniform(-5.0, -0.2) if solved else rng.uniform(-0.2, 0.9)
        row["train/gradient_norm"] = rng.uniform(0.1, 1.0) if solved else rng.uniform(2.0, 11.0)
    return rows


def lunarlander(seed: int, updates: int = 120) -> list[Row]:
    """Value losses of thousands, gradients of hundreds, a critic that explains nothing for a while, returns near 0."""
    rng, rows = random.Random(seed), steady(updates)
    for t, row in enumerate(rows):
        left = 1.0 - t / updates
        row["rollout/ep_rew_mean"] = -180.0 + 430.0 * (1.0 - left) + rng.gauss(0.0, 30.0)
        row["train/entropy"] = 0.6 + 0.78 * left
        row["train/return_mean"] = -70.0 + 140.0 * (1.0 - left)
        row["train/value_loss"] = 200.0 + 5000.0 * left**4
        row["train/advantage_std"] = 12.0 + 40.0 * left
        row["train/advantage_mean"] = rng.gauss(-60.0 * left**4, 5.0)
        row["train/explained_variance"] = rng.gauss(0.0, 0.002) if t < 15 else min(0.95, 0.05 * (t - 15))
        row["train/gradient_norm"] = 20.0 + 400.0 * left**4
    return rows


def pendulum(seed: int, updates: int = 100) -> list[Row]:
    """−1200 for long, then −200; a density that narrows below 0 nats; actions a third outside their bounds."""
    rng, rows = random.Random(seed), steady(updates)
    for t, row in enumerate(rows):
        row["rollout/ep_rew_mean"] = (-1200.0 if t < 50 else -1200.0 + 20.0 * (t - 50)) + rng.gauss(0.0, 60.0)
        row["rollout/action_saturation"] = rng.uniform(0.03, 0.35)
        row["train/entropy"] = 1.43 - 2.0 * t / updates
        row["train/return_mean"] = -60.0
        row["train/value_loss"] = 9000.0 * 0.97**t
        row["train/advantage_mean"] = -90.0 * 0.985**t
        row["train/advantage_std"] = 30.0
        row["train/explained_variance"] = rng.gauss(0.0, 0.01)
        row["train/gradient_norm"] = 100.0 + 600.0 * 0.97**t
    return rows


CURVES = {"cartpole": cartpole, "lunarlander": lunarlander, "pendulum": pendulum}

# Shorter names for the keys that the histories below move.
LOSS, EXPLAINED = "train/value_loss", "train/explained_variance"
SPREAD, RETURN = "train/advantage_std", "train/return_mean"
ENTROPY, NORM, KL, RATIO = "train/entropy", "train/gradient_norm", "train/approx_kl", "train/first_ratio_error"
SEARCH, SAMPLES = "train/is_line_search_success", "train/effective_sample_size"
REWARD, SATURATION = "rollout/ep_rew_mean", "rollout/action_saturation"
SIZE, BOUND = "train/value_size", "train/value_bound"

_MEMORISED = ramp(40, {LOSS: (20.0, 2.0), EXPLAINED: (0.3, 0.2)})

FIRING: dict[str, list[list[Row]]] = {
    "non_finite": [steady(3) + steady(1, {"train/loss": nan}), steady(1, {"rollout/reward_mean": -inf})],
    "first_ratio": [steady(3) + steady(1, {RATIO: 2e-5})],
    "kl_runaway": [steady(3) + steady(5, {KL: 0.2}), steady(1, {KL: 5.0})],
    "entropy_collapse": [
        ramp(40, {ENTROPY: (0.69, 0.2), REWARD: (20.0, 9.0)}) + steady(3, {ENTROPY: 0.01, REWARD: 9.0}),
        steady(5, {ENTROPY: 1e-9, REWARD: 9.4}),
        ramp(12, {ENTROPY: (2.8, -4.0), SATURATION: (0.3, 0.1)}),
    ],
    "failing_search": [steady(3, {SEARCH: 1.0}) + steady(5, {SEARCH: 0.0})],
    "few_effective_samples": [steady(5, {SAMPLES: 0.02})],
    "dead_gradients": [steady(3, {NORM: 1e-9})],
    "exploding_gradients": [steady(30) + steady(3, {NORM: 2e4})],
    "flat_advantages": [steady(3, {SPREAD: 0.0}), steady(3, {SPREAD: 1e-4})],
    "critic_explains_nothing": [steady(40, {EXPLAINED: -0.5, SPREAD: 30.0})],
    "critic_memorises": [[row | {SPREAD: 12.0} for row in _MEMORISED]],
    "large_returns": [steady(3, {RETURN: -2500.0})],
    "runaway_values": [steady(5, {SIZE: 900.0, BOUND: 100.0})],
    "saturated_actions": [steady(10, {SATURATION: 0.97})],
    "falling_returns": [
        ramp(60, {REWARD: (20.0, 500.0)}) + steady(10, {REWARD: 60.0}),
        steady(500, {REWARD: 250.0}) + steady(10, {REWARD: -80.0}),
    ],
}
"""Histories in which a tripwire fires."""

SILENT: dict[str, list[list[Row]]] = {
    "non_finite": [steady(1, {EXPLAINED: -inf, "train/advantage_skew": nan})],
    "first_ratio": [steady(3, {RATIO: 5e-6})],
    "kl_runaway": [steady(9, {KL: 0.08}), (steady(4, {KL: 0.2}) + steady(1)) * 4],
    "entropy_collapse": [
        ramp(60, {ENTROPY: (0.69, 0.003), REWARD: (20.0, 500.0)}) + steady(5, {ENTROPY: 0.002, REWARD: 500.0}),
        ramp(60, {ENTROPY: (0.69, 0.1), REWARD: (20.0, 9.0)}),
        ramp(60, {ENTROPY: (2.8, -4.0), SATURATION: (0.3, 0.1)}),
    ],
    "failing_search": [(steady(4, {SEARCH: 0.0}) + steady(1, {SEARCH: 1.0})) * 3],
    "few_effective_samples": [(steady(4, {SAMPLES: 0.02}) + steady(1, {SAMPLES: 0.06})) * 3],
    "dead_gradients": [steady(9, {NORM: 1e-3})],
    "exploding_gradients": [
        steady(40, {NORM: 700.0}),
        steady(40, {NORM: 0.4}) + steady(3, {NORM: 60.0}),
        steady(40, {NORM: 2e4}),
        steady(40) + steady(1, {NORM: 2e4}) + steady(2),
    ],
    "flat_advantages": [
        steady(9, {SPREAD: 0.002, RETURN: 50.0}),
        steady(9, {SPREAD: 1e-4, RETURN: 1e-3}),
    ],
    "critic_explains_nothing": [
        steady(60, {EXPLAINED: -4.0, SPREAD: 0.01, RETURN: 50.0}),
        steady(60, {EXPLAINED: -0.01, SPREAD: 30.0}),
        (steady(39, {EXPLAINED: -0.5, SPREAD: 30.0}) + steady(1)) * 2,
    ],
    "critic_memorises": [
        ramp(40, {LOSS: (20.0, 2.0), EXPLAINED: (0.1, 0.4), SPREAD: (12.0, 12.0)}),
        ramp(40, {LOSS: (0.6, 0.2), EXPLAINED: (0.999, 0.999), SPREAD: (0.8, 0.8), RETURN: (-6.0, -6.0)}),
        ramp(40, {LOSS: (20.0, 2.0), EXPLAINED: (0.3, 0.3), SPREAD: (12.0, 4.0)}),
        ramp(40, {LOSS: (20.0, 15.0), EXPLAINED: (0.3, 0.3), SPREAD: (12.0, 12.0)}),
    ],
    "large_returns": [steady(9, {RETURN: -60.0})],
    "runaway_values": [
        steady(20, {SIZE: 111.0, BOUND: 100.0}),
        steady(20, {SIZE: 3.0, BOUND: 0.0}),  # no reward was seen yet: a network that has learnt nothing
        (steady(4, {SIZE: 900.0, BOUND: 100.0}) + steady(1, {SIZE: 90.0, BOUND: 100.0})) * 3,
    ],
    "saturated_actions": [steady(20, {SATURATION: 0.8}), steady(9, {SATURATION: 0.97})],
    "falling_returns": [
        ramp(60, {REWARD: (20.0, 500.0)}) + steady(60, {REWARD: 300.0}),
        steady(1, {REWARD: 1.0}) + steady(60, {REWARD: 0.05}),
        ramp(60, {REWARD: (-180.0, 10.0)}) + steady(60, {REWARD: -90.0}),
        ramp(60, {REWARD: (20.0, 500.0)}) + steady(9, {REWARD: 60.0}),
    ],
}
"""Histories beside them in which it stays silent: healthy ones, and near misses."""


# --- language ---

COMPLETIONS: Row = {
    "reward": 0.4,
    "gold": 0.4,
    "frac_reward_zero_std": 0.5,
    "completions/clipped_ratio": 0.1,
    "completions/mean_length": 20.0,
    "completions/tokens": 640.0,
    "completions/repetition": 0.1,
    "rewards/failures": 0.0,
    "rewards/task/share": 0.7,
    "rewards/format/share": 0.3,
    "examples/template": 1234567.0,
    "kl": 3.0,
}
EXAMPLES: Row = {
    "train/loss": 0.5,
    "train/entropy": 0.4,
    "logps/chosen": -30.0,
    "rewards/identical": 0.0,
    "examples/ended": 1.0,
    "examples/template": 1234567.0,
}


def language(row: Row, *phases: tuple[int, Row], trained: float = 1.0) -> list[Row]:
    """Updates of a language model, some of the row's keys changed from phase to phase; how many tokens were trained on.

    Args:
        trained: share of the 640 tokens of an update, in the last phase; all in the others.
    """
    rows, tokens = [], 0.0
    for i, (updates, changes) in enumerate(phases):
        for t in range(updates):
            tokens += 640.0 * (trained if i == len(phases) - 1 else 1.0)
            wave = 0.01 * (t % 5 - 2)  # rewards are never quite still
            rows.append({key: x + wave * (key in ("reward", "gold")) for key, x in (row | changes).items()})
            rows[-1]["num_tokens"] = tokens
    return rows


ILL: dict[str, tuple[Row, Row]] = {
    "groups_without_spread": (COMPLETIONS, {"frac_reward_zero_std": 0.95}),
    "all_cut": (COMPLETIONS, {"completions/clipped_ratio": 1.0}),
    "length_runaway": (COMPLETIONS, {"completions/mean_length": 90.0}),
    "repetition": (COMPLETIONS, {"completions/repetition": 0.7}),
    "reward_failures": (COMPLETIONS, {"rewards/failures": 2.0}),
    "far_from_reference": (COMPLETIONS, {"kl": 80.0}),
    "dominant_component": (COMPLETIONS, {"rewards/task/share": 0.99, "rewards/format/share": 0.05}),
    "gold_falling": (COMPLETIONS, {"reward": 0.8, "gold": 0.2}),
    "chosen_falling": (EXAMPLES, {"logps/chosen": -50.0}),
    "identical_pairs": (EXAMPLES, {"rewards/identical": 0.5}),
    "endless_answers": (EXAMPLES, {"examples/ended": 0.0}),
    "template_drift": (EXAMPLES, {"examples/template": 7654321.0}),
}
FIRING |= {name: [language(row, (20, {}), (40, ill))] for name, (row, ill) in ILL.items()}
SILENT |= {
    name: [language(row, (60, {})), language(row, (20, {}), (1, ill), (20, {}))] for name, (row, ill) in ILL.items()
}
FIRING["everything_masked"] = [language(COMPLETIONS, (20, {}), (5, {}), trained=0.01)]
FIRING["template_drift"].append(language(COMPLETIONS, (2, {}), (1, {"examples/template": 1.0})))
SILENT["everything_masked"] = [
    language(COMPLETIONS, (20, {}), (2, {}), trained=0.0),
    language(COMPLETIONS, (20, {}), (20, {}), trained=0.1),
]
SILENT["template_drift"] = [language(EXAMPLES, (60, {}))]
SILENT["gold_falling"] += [
    language(COMPLETIONS, (20, {}), (40, {"reward": 0.8, "gold": 0.8})),
    language(COMPLETIONS, (20, {}), (40, {"reward": 0.1, "gold": 0.1})),  # both fall: the model has got worse
    language(COMPLETIONS, (20, {}), (2, {"reward": 0.8, "gold": 0.2}), (20, {})),
]
SILENT["dominant_component"] += [
    language(COMPLETIONS, (40, {"rewards/task/share": 0.99, "rewards/format/share": 0.9})),  # they say the same
]
