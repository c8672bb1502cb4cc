"""SARSA beside Q-learning on CliffWalking-v1, after Sutton & Barto's example 6.6: the safe path, and the edge.

    python -m benchmarks.cliffwalking --out docs/cliffwalking.png

ε stays 0.1, γ = 1, 5,000 episodes, α falls from 0.5 to 0.05. The boards show the last greedy policy of the first seed,
its values and its way; the curves are the return while learning, mean over the seeds, smoothed over 50 episodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from advantage.solving import Problem, problem_of
from advantage.tabular import Decay, Learned, expected_return, q_learning, sarsa
from advantage.views.board import draw_board
from advantage.views.picture import COLOURS, INK, LINE, SOFT

EPISODES, SMOOTH = 5000, 50
METHODS = {"SARSA": sarsa, "Q-learning": q_learning}


def way(problem: Problem, policy: Any) -> list[int]:
    """The states that a policy passes from the start, the first of its actions where two tie."""
    mdp = problem.mdp
    states = [int(mdp.start.argmax())]
    while not mdp.terminal[states[-1]] and len(states) < mdp.num_states:
        action = int(policy[states[-1]].argmax())
        states.append(int(mdp.P[action, states[-1]].argmax()))
    return states


def learn(problem: Problem, seeds: int) -> dict[str, list[Learned]]:
    """Both methods, a result a seed."""
    alpha = Decay(0.5, 0.05, 0.01, shape="inverse")
    settings: dict[str, Any] = {"episodes": EPISODES, "alpha": alpha, "epsilon": 0.1, "snapshots": 1}
    return {
        name: [method(problem.mdp, seed=seed, **settings) for seed in range(seeds)] for name, method in METHODS.items()
    }


def draw(problem: Problem, learnt: dict[str, list[Learned]], out: Path) -> None:
    """Two boards above, the curves below."""
    figure = Figure(figsize=(7.6, 8.2), layout="constrained")
    rows = figure.subplots(3, 1, gridspec_kw={"height_ratios": [1, 1, 0.9]})
    for axis, (name, results), colour in zip(rows, learnt.items(), COLOURS, strict=False):
        states = way(problem, results[0].policy)
        draw_board(axis, problem, problem.boards[0], results[0].values, results[0].policy, states, colour)
        greedy = len(states) - 1
        axis.set_title(f"{name}: {greedy} steps", loc="left", fontweight="bold", color=INK)
    for (name, results), colour in zip(learnt.items(), COLOURS, strict=False):
        mean = np.mean([each.returns for each in results], axis=0)
        smooth = np.convolve(mean, np.full(SMOOTH, 1 / SMOOTH), "valid")
        rows[2].plot(np.arange(len(smooth)) + SMOOTH, smooth, color=colour, label=name)
    rows[2].set_ylim(-100, 0)
    rows[2].set_title("return while learning", loc="left", color=SOFT, fontsize=9)
    rows[2].set_xlabel("episodes", color=SOFT, loc="right")
    rows[2].legend(frameon=False, labelcolor=INK, loc="lower right")
    rows[2].spines[["top", "right", "left"]].set_visible(False)
    rows[2].grid(axis="y", color=LINE)
    rows[2].tick_params(colors=SOFT, length=0)
    figure.savefig(out, dpi=120, metadata={"Software": None})


def main() -> None:
    """Learns, draws and prints what the picture shows in numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/cliffwalking.png"))
    options = parser.parse_args()
    problem = problem_of("CliffWalking-v1", {}, 1.0)
    learnt = learn(problem, options.seeds)
    print("| method | steps of the greedy way, each seed | return while learning, last 1,000 | exact J with its ε |")
    print("|---|---|---|---|")
    for name, results in learnt.items():
        steps = ", ".join(str(len(way(problem, each.policy)) - 1) for each in results)
        online = np.mean([each.returns[-1000:].mean() for each in results])
        exact = np.mean([expected_return(problem.mdp, each.behaviour) for each in results])
        print(f"| {name} | {steps} | {online:.1f} | {exact:.1f} |")
    draw(problem, learnt, options.out)


if __name__ == "__main__":
    main()
