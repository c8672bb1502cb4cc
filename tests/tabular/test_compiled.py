"""With numba and without: the same bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from advantage.tabular import (
    Decay,
    double_q_learning,
    expected_sarsa,
    learning,
    monte_carlo,
    n_step_sarsa,
    n_step_td,
    q_learning,
    sarsa,
    sarsa_lambda,
    softmax_policy,
    td0,
    td_lambda,
)
from advantage.tabular.compiled import compiled, installed
from tests.tabular.processes import random_logits, random_mdp

needs_numba = pytest.mark.skipif(not installed(), reason="numba is not installed")

CONTROL: dict[str, Any] = {
    "q_learning": q_learning,
    "double_q_learning": double_q_learning,
    "sarsa": sarsa,
    "expected_sarsa": expected_sarsa,
    "n_step_sarsa": partial(n_step_sarsa, n=3),
    "sarsa_lambda": partial(sarsa_lambda, lam=0.8),
    "sarsa_lambda replacing": partial(sarsa_lambda, lam=0.8, trace="replacing"),
    "sarsa_lambda dutch": partial(sarsa_lambda, lam=0.8, trace="dutch"),
}
PREDICTION: dict[str, Any] = {
    "monte_carlo": partial(monte_carlo, alpha=None),
    "monte_carlo every": partial(monte_carlo, visit="every"),
    "td0": td0,
    "n_step_td": partial(n_step_td, n=3),
    "td_lambda": partial(td_lambda, lam=0.8),
    "td_lambda dutch": partial(td_lambda, lam=0.8, trace="dutch"),
}
EXPLORING: dict[str, Any] = {
    "epsilon": {"epsilon": Decay(1.0, 0.1, 0.999)},
    "softmax": {"temperature": Decay(1.0, 0.1, 1e-4, per="step", shape="linear")},
}
QUICK = ("q_learning", "sarsa_lambda dutch")


def same(one: Any, other: Any) -> bool:
    pairs = [(one.values, other.values), (one.returns, other.returns), (one.lengths, other.lengths)]
    pairs += [(a.values, b.values) for a, b in zip(one.snapshots, other.snapshots, strict=True)]
    pairs += [] if one.q is None else [(one.q, other.q)]
    return all(a.tobytes() == b.tobytes() for a, b in pairs) and one.steps == other.steps


def both(method: Any, *arguments: Any, **settings: Any) -> tuple[Any, Any]:
    fast, plain = (method(*arguments, compiled=fast, **settings) for fast in (True, False))
    return fast, plain


@needs_numba
@pytest.mark.parametrize("explore", EXPLORING.values(), ids=EXPLORING)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CONTROL]
)
def test_control(name: str, explore: Any) -> None:
    mdp = random_mdp(0, 0.9)
    alpha = Decay(0.5, 0.01, 0.001, shape="inverse")
    assert same(*both(CONTROL[name], mdp, episodes=3000, alpha=alpha, max_steps=20, **explore))


@needs_numba
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "td0" else pytest.mark.slow) for name in PREDICTION]
)
def test_prediction(name: str) -> None:
    mdp = random_mdp(0, 0.9)
    policy = softmax_policy(random_logits(0, mdp))
    settings = {} if "monte" in name else {"alpha": 0.1}
    assert same(*both(PREDICTION[name], mdp, policy, episodes=3000, max_steps=20, **settings))


@needs_numba
def test_compiling_in_the_middle_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = random_mdp(0, 0.9)
    method = partial(q_learning, mdp, episodes=60_000, alpha=0.1, epsilon=0.1)
    plain, begun = method(compiled=False), []
    monkeypatch.setattr(learning, "PLAIN_STEPS", 60_000)
    monkeypatch.setattr(learning, "loop", lambda *a, real=learning.loop: begun.append(a[-1]) or real(*a))
    assert same(method(), plain) and begun == [False, True]


def test_without_numba_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advantage.tabular.compiled.installed", lambda: False)
    with pytest.raises(ValueError, match=r'pip install "advantage\[fast\]"'):
        compiled(lambda x: x)
    assert np.isfinite(q_learning(random_mdp(0, 0.9), episodes=5, alpha=0.1, epsilon=0.1).q).all()
