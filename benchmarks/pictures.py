"""Pictures of what estimates and trust regions do, each computed exactly on a process whose numbers are known.

    python -m benchmarks.pictures          # docs/trust_region.png and docs/bias_and_variance.png

Nothing is sampled: expectations, variances and KL come from linear systems over all states and actions, so that the
pictures are the same on every machine. `tests/test_pictures.py` samples what is drawn here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advantage.tabular import (
    MDP,
    exact_natural_gradient,
    expected_return,
    policy_values,
    softmax_policy,
    state_visitation,
)
from advantage.views.picture import COLOURS, INK, LINE, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).resolve().parents[1] / "docs"
DELTA, EPSILON = 0.01, 0.2  # the bound on the mean KL, and the clip's half-width
Floats = np.ndarray[Any, np.dtype[np.float64]]


def process(seed: int = 1, gamma: float = 0.95) -> tuple[MDP, Floats]:
    """Eight states and an end, three actions, transitions and rewards at random; and the logits of a policy."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(9, 0.4), size=(3, 9))
    P[:, :, -1] = 0.02
    P /= P.sum(-1, keepdims=True)
    R = rng.normal(size=(3, 9, 9))
    return MDP(P, R, gamma, np.arange(9) == 8, np.append(np.full(8, 1 / 8), 0.0)), rng.normal(size=(9, 3))


# --- along one step ---


def along_a_step(mdp: MDP, logits: Floats, lengths: Floats) -> dict[str, Floats]:
    """J, the surrogate, the clipped surrogate (all less what they are at 0) and the mean KL, along the natural step.

    A length of 1 is the step that TRPO tries first: √(2δ / xᵀFx) x.
    """
    old = np.asarray(softmax_policy(logits))
    values = policy_values(mdp, old)
    visits, advantages = np.asarray(state_visitation(mdp, old)), mdp.q(values) - values[:, None]
    x = np.asarray(exact_natural_gradient(mdp, logits))
    spread = (old * x**2).sum(1) - (old * x).sum(1) ** 2  # xᵀ(diag π − π πᵀ)x of every state
    step = np.sqrt(2 * DELTA / (visits @ spread / visits.sum())) * x
    found: dict[str, list[float]] = {name: [] for name in ("J", "surrogate", "clipped surrogate", "KL")}
    for length in lengths:
        new = np.asarray(softmax_policy(logits + length * step))
        ratio = new / old
        clipped = np.minimum(ratio * advantages, np.clip(ratio, 1 - EPSILON, 1 + EPSILON) * advantages)
        found["J"].append(expected_return(mdp, new) - expected_return(mdp, old))
        found["surrogate"].append(float(visits @ (new * advantages).sum(1)))
        found["clipped surrogate"].append(float(visits @ (old * clipped).sum(1)))
        found["KL"].append(float(visits @ (old * np.log(old / new)).sum(1) / visits.sum()))
    return {name: np.array(column) for name, column in found.items()}


def one_parameter(p: Floats, old: float = 0.24) -> dict[str, Floats]:
    """Two states that share one p: J = p − 2p², the surrogate from `old`, and the KL of a coin of p."""
    kl = old * np.log(old / p) + (1 - old) * np.log((1 - old) / (1 - p))
    return {"J": p - 2 * p**2, "surrogate": old - 2 * old**2 + (1 - 4 * old) * (p - old), "KL": kl}


# --- bias and variance ---


def gae_moments(mdp: MDP, policy: Floats, critic: Floats, lam: float) -> tuple[Floats, Floats]:
    """Mean and variance of Â_t given (s, a), (S, A) each, of GAE with this critic; from two linear systems.

    E[Â] = E[δ] + γλ Σ P Σ π E[Â'];   E[Â²] = E[δ²] + 2γλ E[δ Â'] + (γλ)² Σ P Σ π E[Â'²]
    """
    states, actions = policy.shape
    goes_on = ~mdp.terminal
    critic = np.where(goes_on, critic, 0.0)
    P = np.asarray(mdp.P)
    assert mdp.transition_rewards is not None
    delta = np.asarray(mdp.transition_rewards).reshape(P.shape) + mdp.gamma * critic - critic[:, None]
    decay = mdp.gamma * lam
    ahead = (P[..., None] * (policy * goes_on[:, None])).transpose(1, 0, 2, 3).reshape(states * actions, -1)
    identity = np.eye(states * actions)
    mean = np.linalg.solve(identity - decay * ahead, (P * delta).sum(-1).T.reshape(-1))
    following = (policy * mean.reshape(states, actions)).sum(1) * goes_on
    square = (P * (delta**2 + 2 * decay * delta * following)).sum(-1).T.reshape(-1)
    second = np.linalg.solve(identity - decay**2 * ahead, square)
    return mean.reshape(states, actions), (second - mean**2).reshape(states, actions)


def bias_and_spread(lams: Floats) -> dict[str, Floats]:
    """Root mean squares over the states and actions that a policy meets, with a critic that is wrong by a third."""
    mdp, logits = process()
    policy = np.asarray(softmax_policy(logits))
    values = policy_values(mdp, policy)
    errors = np.random.default_rng(0).normal(size=values.shape)
    critic = values + errors * values[~mdp.terminal].std() / 3
    weight = np.asarray(state_visitation(mdp, policy))[:, None] * policy
    weight /= weight.sum()
    found: dict[str, list[float]] = {"bias": [], "standard deviation": [], "root mean square error": []}
    advantages = mdp.q(values) - values[:, None]
    for lam in lams:
        mean, variance = gae_moments(mdp, policy, critic, float(lam))
        bias = mean - (advantages + (values - critic)[:, None])  # what is left for λ = 1 is a baseline, and no bias
        found["bias"].append(float(np.sqrt((weight * bias**2).sum())))
        found["standard deviation"].append(float(np.sqrt((weight * variance).sum())))
        found["root mean square error"].append(float(np.sqrt((weight * (bias**2 + variance)).sum())))
    return {name: np.array(column) for name, column in found.items()}


def baseline_variance(baselines: Floats) -> Floats:
    """Variance of (r − b) ∂log π of one parameter: two arms of probability .9 and .1 that pay 1 and 0."""
    chance, reward, score = np.array([0.9, 0.1]), np.array([1.0, 0.0]), np.array([0.1, -0.9])
    terms = (reward - baselines[:, None]) * score
    return np.asarray((chance * terms**2).sum(1) - (chance * terms).sum(1) ** 2)


# --- drawing ---


def draw_trust_region(out: Path) -> None:
    """Two panels: everything along one step, and a step inside the bound that lowers J."""
    figure, (left, right) = _figure()
    lengths = np.linspace(0, 8, 401)
    mdp, logits = process()
    found = along_a_step(mdp, logits, lengths)
    _panel(
        left,
        "Along one natural step",
        "gain over the old policy, and the mean KL (right)",
        "length of the step, 1 = TRPO's",
    )
    for name, colour in zip(("J", "surrogate", "clipped surrogate"), COLOURS, strict=False):
        left.plot(lengths, found[name], color=colour, lw=1.9, label={"J": "J, the expected return"}.get(name, name))
    far = left.twinx()
    far.plot(lengths, found["KL"], color=COLOURS[3], lw=1.9, ls="--", label="mean KL (right axis)")
    far.axhline(DELTA, color=COLOURS[3], lw=0.8)
    far.annotate("δ = 0.01", (8, DELTA), (-4, 3), textcoords="offset points", ha="right", color=COLOURS[3], fontsize=8)
    far.spines[:].set_visible(False)
    far.tick_params(colors=SOFT, length=0)
    far.set_ylim(0, None)
    left.axvline(1, color=SOFT, lw=0.8, ls=":")
    left.set_ylim(min(0.0, float(found["J"].min())) * 1.1, float(found["surrogate"].max()) * 1.02)
    lines = [*left.get_lines()[:3], far.get_lines()[0]]
    left.legend(
        lines, [str(line.get_label()) for line in lines], frameon=False, labelcolor=INK, loc="upper left", fontsize=8
    )

    p = np.linspace(0.15, 0.36, 401)
    shared = one_parameter(p)
    _panel(right, "A step inside the trust region that lowers J", "J = p − 2p², two states share one p", "p")
    inside = p[shared["KL"] <= DELTA]
    right.axvspan(inside[0], inside[-1], color=COLOURS[3], alpha=0.12, lw=0, label="KL ≤ 0.01 from p = 0.24")
    right.plot(p, shared["J"], color=COLOURS[0], lw=1.9, label="J")
    right.plot(p, shared["surrogate"], color=COLOURS[1], lw=1.9, label="J(old) + surrogate")
    ends = one_parameter(np.array([0.24, inside[-1]]))["J"]
    right.scatter([0.24, inside[-1]], ends, color=INK, s=24, zorder=3)
    for x, y, text, place in (
        (0.24, ends[0], "old: {:.4f}", (-8, -16)),
        (inside[-1], ends[1], "best L: {:.4f}", (8, -4)),
    ):
        ha = "right" if place[0] < 0 else "left"
        right.annotate(text.format(y), (x, y), place, textcoords="offset points", ha=ha, color=INK, fontsize=8.5)
    right.legend(frameon=False, labelcolor=INK, loc="lower left", fontsize=8)
    _save(figure, out)


def draw_bias_and_variance(out: Path) -> None:
    """Two panels: GAE from TD(0) to Monte Carlo, and a baseline that raises the variance."""
    figure, (left, right) = _figure()
    lams = np.linspace(0, 1, 101)
    found = bias_and_spread(lams)
    _panel(
        left,
        "GAE from TD(0) to Monte Carlo",
        "of Â given (s, a), root mean square; the critic is wrong by a third",
        "λ",
    )
    for (name, curve), colour in zip(found.items(), (COLOURS[1], COLOURS[0], COLOURS[2]), strict=True):
        left.plot(lams, curve, color=colour, lw=1.9, label=name)
    best = int(found["root mean square error"].argmin())
    height = found["root mean square error"][best]
    left.scatter([lams[best]], [height], color=COLOURS[2], s=24, zorder=3)
    left.annotate(f"least at λ = {lams[best]:.2f}", (lams[best], height), (0, 9), textcoords="offset points",
                  ha="center", color=COLOURS[2], fontsize=8.5)  # fmt: skip
    left.set_ylim(0, None)
    left.legend(frameon=False, labelcolor=INK, fontsize=8, loc="center left", bbox_to_anchor=(0.0, 0.35))

    b = np.linspace(-0.1, 1.0, 221)
    _panel(
        right,
        "A baseline that raises the variance",
        "two arms, π = (.9, .1), pay 1 and 0: variance of the gradient",
        "b",
    )
    right.plot(b, baseline_variance(b), color=COLOURS[0], lw=1.9)
    marked = {
        0.0: ("none: {:.4f}", (6, 14)),
        0.1: ("best, b = 0.1: {:.4f}", (12, 2)),
        0.9: ("b = V = 0.9: {:.4f}", (-10, 0)),
    }
    for x, (text, place) in marked.items():
        y = float(baseline_variance(np.array([x]))[0])
        right.scatter([x], [y], color=INK, s=24, zorder=3)
        ha = "right" if place[0] < 0 else "left"
        right.annotate(text.format(y), (x, y), place, textcoords="offset points", ha=ha, color=INK, fontsize=8.5)
    right.set_ylim(0, None)
    _save(figure, out)


def _figure() -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(11.0, 4.4), layout="constrained")
        return figure, figure.subplots(1, 2)


def _panel(axis: Axes, title: str, about: str, below: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20)
    axis.annotate(about, (0, 1), (0, 6), "axes fraction", "offset points", color=SOFT, fontsize=9)
    axis.set_xlabel(below, color=SOFT, loc="right")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, length=0)


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    print(out)


if __name__ == "__main__":
    draw_trust_region(DOCS / "trust_region.png")
    draw_bias_and_variance(DOCS / "bias_and_variance.png")
