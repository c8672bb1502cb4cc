"""Every metric of a run that the rest of its report does not draw: those that belong together in one chart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from advantage.views.chart import Layer, chart
from advantage.views.columns import Columns
from advantage.views.facts import line
from advantage.views.html import Html, element, number, table, text

Keys = Mapping[str, tuple[str, str]]

DIAGNOSTICS: dict[str, dict[str, str]] = {  # title: metrics drawn together, each with its name in the legend
    "KL to the reference": {"kl": ""},
    "Length of a completion": {"completions/mean_length": ""},
    "Cut at the limit of length": {"completions/clipped_ratio": ""},
    "Spread of rewards in a group": {"reward_std": ""},
    "Groups without spread": {"frac_reward_zero_std": ""},
    "Repetition": {"completions/repetition": ""},
    "Margin": {"rewards/margins": ""},
    "Implicit reward": {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    "Log-probability of a completion": {"logps/chosen": "chosen", "logps/rejected": "rejected"},
    "Mean score": {"rewards/mean": ""},
    "The longer text of a pair": {"rewards/chosen_longer": "is chosen", "rewards/longer_higher": "scores higher"},
    "KL of an update": {"train/approx_kl": ""},
    "KL behind the update": {"train/kl": ""},
    "Clip fraction": {"train/clip_fraction": ""},
    "Entropy": {"train/entropy": ""},
    "Explained variance": {"train/explained_variance": ""},
    "Value loss": {"train/value_loss": ""},
    "Policy loss": {"train/policy_gradient_loss": ""},
    "Whole loss": {"train/loss": ""},
    "Gradient norm before clipping": {"train/gradient_norm": "mean", "train/gradient_norm_max": "largest"},
    "Probability ratio": {"train/ratio_min": "least", "train/ratio_max": "greatest"},
    "First ratio's error": {"train/first_ratio_error": ""},
    "Random actions": {"rollout/exploration_rate": ""},
    "TD error": {"train/td_error": ""},
    "Largest value": {"train/value_size": "of max_a Q", "train/value_bound": "that a return can have"},
    "Advantage before normalisation": {"train/advantage_mean": "mean", "train/advantage_std": "standard deviation"},
    "Advantage skewness": {"train/advantage_skew": ""},
    "Value and return": {"train/value_mean": "value", "train/return_mean": "return", "train/value_error": "error"},
    "Episode length": {"rollout/ep_len_mean": "training", "eval/mean_ep_length": "held-out"},
    "Reward of a step": {"rollout/reward_mean": "mean", "rollout/reward_std": "standard deviation"},
    "Price of the KL": {"train/beta": ""},
    "Learning rate": {"train/learning_rate": ""},
    "Optimiser steps of an update": {"train/minibatches": ""},
    "Stopped early": {"train/stopped_early": ""},
    "Batches drawn for an update": {"completions/draws": ""},
    "Completions without a reward": {"completions/unscored": "unscored", "rewards/failures": "failed calls"},
    "Tokens": {"completions/tokens": ""},
    "Tokens trained on": {"num_tokens": ""},
    "Seconds of an update": {
        "time/collect": "collect", "time/generate": "generate", "time/reward": "reward", "time/score": "score",
        "time/update": "update",
    },
    "Steps per second": {"time/fps": ""},
}  # fmt: skip
ROUNDING = {"Whole loss": 1e-6}  # of centred advantages at a ratio of 1 it is 0 but for this
OF_FUNCTIONS = {"mean": "Mean of a reward function", "share": "Share in the total's variance"}
ELSEWHERE = {"time/total_timesteps", "time/evaluate", "eval/mean_reward", "eval/std_reward", "gold"}
ELSEWHERE |= {"train/n_updates", "examples/template"}  # a fingerprint: its size says nothing


def diagnostics(columns: Columns, keys: Keys) -> Iterator[Html]:
    """Those that belong together first, then what else the run recorded; what never changed is listed."""
    said = "Losses and the numbers below do not measure performance; they show whether the updates are healthy."
    yield element("p", text(said), class_="soft")
    figures, constant = [], []
    for title, group in _groups(columns, keys).items():
        layers = [line(columns, name, label, i) for i, (name, label) in enumerate(group.items())]
        unit, meaning = keys.get(next(iter(group)), ("", ""))
        if all(_never_changes(one, ROUNDING.get(title, 0.0)) for one in layers):
            constant += [(name, one.y[-1], *keys.get(name, ("", ""))) for name, one in zip(group, layers, strict=True)]
            continue
        about = unit if len(group) > 1 else f"{meaning} ({unit})" if unit else meaning
        figures.append(chart(title, layers, columns.unit, about=about))
    yield element("div", *figures, class_="grid")
    said = f"Across: {columns.unit}. A shade is the range of the updates that a point of a long line averages."
    yield element("p", text(said), class_="soft")
    if constant:
        cells = [
            [element("code", text(name)), text(number(float(value))), text(unit), text(meaning)]
            for name, value, unit, meaning in constant
        ]
        summary = element("summary", text(f"{len(constant)} numbers that never changed"))
        yield element("details", summary, table(["metric", "value", "unit", "meaning"], cells, numbers=(1,)))


def _groups(columns: Columns, keys: Keys) -> dict[str, dict[str, str]]:
    """What is to be drawn, by title: metrics with their names in the legend."""
    functions: dict[str, dict[str, str]] = {}
    for name in keys:
        if named := re.fullmatch(r"rewards/(.+)/(mean|share)", name):
            functions.setdefault(OF_FUNCTIONS[named[2]], {})[name] = named[1]
    groups = {**functions, **DIAGNOSTICS}
    known = {name for group in groups.values() for name in group}
    groups |= {name: {name: ""} for name in keys if name not in known}
    elsewhere = ELSEWHERE | {measure.name for measure in columns.kind.measures}
    shown = {
        title: {name: label for name, label in group.items() if name in columns.table and name not in elsewhere}
        for title, group in groups.items()
    }
    return {title: group for title, group in shown.items() if group}


def _never_changes(one: Layer, rounding: float) -> bool:
    return len(one.y) > 1 and not one.marks and float(np.ptp(one.y)) <= rounding
