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


def process(seed: int = 16, gamma: float = 0.95) -> tuple[MDP, Floats, Floats]:
    """Eight states and an end, three actions, all at random; features (S, A, 1) of a policy, and its one parameter.

    π(a|s) is the softmax of θ φ(s, a): the states share θ, as those of a network do, so that no state has its own way.
    """
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(9, 0.3), size=(3, 9))
    P[:, :, -1] = 0.02
    P /= P.sum(-1, keepdims=True)
    R = rng.normal(size=(3, 9, 9))
    start = np.append(np.full(8, 1 / 8), 0.0)
    return MDP(P, R, gamma, np.arange(9) == 8, start), rng.normal(size=(9, 3, 1)), 0.5 * rng.normal(size=1)


def corridor(length: int = 10, gamma: float = 0.95) -> tuple[MDP, Floats]:
    """Cells in a row, a tenth of the moves the other way, 1 at the end; and a policy that goes right 7 times in 10."""
    P = np.zeros((2, length + 1, length + 1))
    for cell in range(length):
        for action, way in ((0, -1), (1, 1)):
            P[action, cell, max(cell + way, 0)] += 0.9
            P[action, cell, max(cell - way, 0)] += 0.1
    P[:, length, length] = 1.0
    R = np.zeros_like(P)
    R[:, :, length] = 1.0
    start = np.append(np.full(length, 1 / length), 0.0)
    return MDP(P, R, gamma, np.arange(length + 1) == length, start), np.tile([0.3, 0.7], (length + 1, 1))


# --- along one step ---


def along_a_step(mdp: MDP, features: Floats, theta: Floats, lengths: Floats) -> dict[str, Floats]:
    """J, the surrogate, the clipped surrogate (all less what they are at 0) and the mean KL, along the natural step.

    A length of 1 is the step that TRPO tries first: √(2δ / xᵀFx) x with F x = ∇J, both exact.
    """
    old = np.asarray(softmax_policy(features @ theta))
    values = policy_values(mdp, old)
    visits, advantages = np.asarray(state_visitation(mdp, old)), mdp.q(values) - values[:, None]
    score = features - (old[:, :, None] * features).sum(1, keepdims=True)  # ∂ log π(a|s)
    met = visits[:, None] * old
    gradient = np.einsum("sa,sak->k", met * advantages, score)
    fisher = np.einsum("sa,sak,sal->kl", met / visits.sum(), score, score)
    x = np.linalg.solve(fisher, gradient)
    step = np.sqrt(2 * DELTA / (x @ gradient)) * x
    found: dict[str, list[float]] = {name: [] for name in ("J", "surrogate", "clipped surrogate", "KL")}
    for length in lengths:
        new = np.asarray(softmax_policy(features @ (theta + length * step)))
        ratio = new / old
        clipped = np.minimum(ratio * advantages, np.clip(ratio, 1 - EPSILON, 1 + EPSILON) * advantages)
        found["J"].append(expected_return(mdp, new) - expected_return(mdp, old))
        found["surrogate"].append(float(visits @ (new * advantages).sum(1)))
        found["clipped surrogate"].append(float((met * clipped).sum()))
        found["KL"].append(float((met * np.log(old / new)).sum() / visits.sum()))
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
    """Root mean squares over the states and actions that a policy meets; its critic errs as much as the values vary."""
    mdp, policy = corridor()
    values = policy_values(mdp, policy)
    critic = values + np.random.default_rng(0).normal(size=values.shape) * values[~mdp.terminal].std()
    critic[mdp.terminal] = 0.0
    weight = np.asarray(state_visitation(mdp, policy))[:, None] * policy
    weight /= weight.sum()
    found: dict[str, list[float]] = {"bias": [], "standard deviation": [], "root mean square error": []}
    exact = mdp.q(values) - critic[:, None]  # what λ = 1 has on average: A, and a baseline that does no harm
    for lam in lams:
        mean, variance = gae_moments(mdp, policy, critic, float(lam))
        found["bias"].append(float(np.sqrt((weight * (mean - exact) ** 2).sum())))
        found["standard deviation"].append(float(np.sqrt((weight * variance).sum())))
        found["root mean square error"].append(float(np.sqrt((weight * ((mean - exact) ** 2 + variance)).sum())))
    return {name: np.array(column) for name, column in found.items()}


def baseline_variance(baselines: Floats) -> Floats:
    """Variance of (r − b) ∂log π of one parameter: two arms of probability .9 and .1 that pay 1 and 0."""
    chance, reward, score = np.array([0.9, 0.1]), np.array([1.0, 0.0]), np.array([0.1, -0.9])
    terms = (reward - baselines[:, None]) * score
    return np.asarray((chance * terms**2).sum(1) - (chance * terms).sum(1) ** 2)


# --- drawing ---


def draw_trust_region(out: Path) -> None:
    """Two panels: everything along one step, and a step inside the bound that lowers J."""
    figure, (left, right) = two_panels()
    lengths = np.linspace(0, 6, 301)
    found = along_a_step(*process(), lengths)
    dress(
        left,
        "Along one natural step",
        "gain over the old policy; dashed, the mean KL (right axis)",
        "length, 1 = TRPO's",
    )
    names = {"J": "J, the expected return", "surrogate": "surrogate L", "clipped surrogate": "clipped surrogate"}
    for (name, label), colour in zip(names.items(), COLOURS, strict=False):
        left.plot(lengths, found[name], color=colour, lw=1.9, label=label)
    left.axvline(1, color=SOFT, lw=0.8, ls=":")
    left.set_ylim(-0.1, 0.95)
    left.legend(frameon=True, edgecolor="none", framealpha=0.9, labelcolor=INK, loc="upper left", fontsize=8.5)
    far = left.twinx()
    far.plot(lengths, found["KL"], color=COLOURS[3], lw=1.9, ls="--")
    far.annotate("KL", (lengths[-1], found["KL"][-1]), (4, -3), textcoords="offset points", color=COLOURS[3])
    far.spines[:].set_visible(False)
    far.tick_params(colors=COLOURS[3], length=0)
    far.set_ylim(-0.1 / 0.95 * 0.9, 0.9)
    far.scatter([1.0], [DELTA], color=COLOURS[3], s=24, zorder=3)
    far.annotate("δ = 0.01", (1.0, DELTA), (6, -14), textcoords="offset points", color=COLOURS[3], fontsize=8.5)

    p = np.linspace(0.15, 0.36, 401)
    shared = one_parameter(p)
    dress(right, "A step inside the trust region that lowers J", "J = p − 2p²: two states share one p", "p")
    inside = p[shared["KL"] <= DELTA]
    right.axvspan(inside[0], inside[-1], color=COLOURS[3], alpha=0.12, lw=0, label="KL ≤ 0.01 from p = 0.24")
    right.plot(p, shared["J"], color=COLOURS[0], lw=1.9, label="J")
    right.plot(p, shared["surrogate"], color=COLOURS[1], lw=1.9, label="J(old) + surrogate L")
    ends = one_parameter(np.array([0.24, inside[-1]]))["J"]
    right.scatter([0.24, inside[-1]], ends, color=INK, s=24, zorder=3)
    _told(right, 0.24, ends[0], "old: {:.4f}", (0, -20), "center")
    _told(right, inside[-1], ends[1], "best L: {:.4f}", (8, -3), "left")
    right.legend(frameon=False, labelcolor=INK, loc="lower left", fontsize=8.5)
    save(figure, out)


def draw_bias_and_variance(out: Path) -> None:
    """Two panels: GAE from TD(0) to Monte Carlo, and a baseline that raises the variance."""
    figure, (left, right) = two_panels()
    lams = np.linspace(0, 1, 101)
    found = bias_and_spread(lams)
    about = "of Â given (s, a), root mean squares; the critic errs as much as V varies"
    dress(left, "GAE from TD(0) to Monte Carlo", about, "λ")
    for (name, curve), colour in zip(found.items(), (COLOURS[1], COLOURS[0], COLOURS[2]), strict=True):
        left.plot(lams, curve, color=colour, lw=1.9, label=name)
    error = found["root mean square error"]
    best = int(error.argmin())
    left.scatter([lams[best]], [error[best]], color=COLOURS[2], s=24, zorder=3)
    _told(left, lams[best], error[best], f"least at λ = {lams[best]:.2f}", (0, 14), "center", COLOURS[2])
    left.set_ylim(0, None)
    left.legend(frameon=False, labelcolor=INK, fontsize=8.5, loc="lower left")

    b = np.linspace(-0.1, 1.0, 221)
    about = "variance of the gradient; two arms, π = (.9, .1), that pay 1 and 0"
    dress(right, "A baseline that raises the variance", about, "b, subtracted from the reward")
    right.plot(b, baseline_variance(b), color=COLOURS[0], lw=1.9)
    none, best_one, value = (float(each) for each in baseline_variance(np.array([0.0, 0.1, 0.9])))
    right.scatter([0.0, 0.1, 0.9], [none, best_one, value], color=INK, s=24, zorder=3)
    _told(right, 0.0, none, "none: {:.4f}", (-4, 12), "left")
    _told(right, 0.1, abs(best_one), "best, b = 0.1: {:.4f}", (4, -16), "left")
    _told(right, 0.9, value, "b = V = 0.9: {:.4f}", (-10, 2), "right")
    right.set_ylim(-0.006, None)
    save(figure, out)


def _told(axis: Axes, x: float, y: float, text: str, by: tuple[int, int], side: str, colour: str = INK) -> None:
    axis.annotate(text.format(y), (x, y), by, textcoords="offset points", ha=side, color=colour, fontsize=8.5)


def two_panels() -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(11.0, 4.4), layout="constrained")
        return figure, figure.subplots(1, 2)


def dress(axis: Axes, title: str, about: str, below: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20)
    axis.annotate(about, (0, 1), (0, 6), "axes fraction", "offset points", color=SOFT, fontsize=9)
    axis.set_xlabel(below, color=SOFT, loc="right")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, length=0)


def save(figure: Any, out: Path) -> None:
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    print(out)


if __name__ == "__main__":
    draw_trust_region(DOCS / "trust_region.png")
    draw_bias_and_variance(DOCS / "bias_and_variance.png")
