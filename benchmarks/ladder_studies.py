"""What a ladder does not vary: how many environments, normalised targets, normalised layers.

    python -m benchmarks.ladder_studies envs    --picture docs/ladder_envs.png
    python -m benchmarks.ladder_studies targets --picture docs/ladder_targets.png
    python -m benchmarks.ladder_studies norms   --picture docs/ladder_norms.png

envs     the noise of one A2C update's gradient, on one frozen policy (experiments/noise.py), and the speed of training,
         against the number of environments
targets  TD actor-critic whose critic's targets are standardised in every batch beside one whose targets are in units of
         reward: it bootstraps from numbers that mean something else in each batch
norms    A2C whose hidden layers are not normalised, are by their own units, are by running moments of rollouts

What was measured is kept in --out and not measured again. `envs` holds 8,192 environments and some 4 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import advantage
from advantage.algorithms import a2c, actor_critic_td
from advantage.core import standardize
from advantage.experiments.measured import at_the_end, score
from advantage.experiments.noise import ESTIMATES, Noise, _gradients, noise_of, play
from advantage.experiments.processes import Job, work
from advantage.experiments.stories import STORIES, settings_of
from advantage.runs.progress import progress
from advantage.runs.reader import RunReader
from advantage.settings import resolve
from advantage.trajectory import Rollout
from advantage.views.contrasts import signed
from advantage.views.curves import Band, band, interquartile_mean, stratified_bootstrap
from advantage.views.html import number
from advantage.views.picture import COLOURS, INK, SOFT, Panel, write_png
from advantage.views.statistics import paired_difference
from benchmarks.pictures import dress, save, two_panels

NUMBERS = (1, 2, 4, 8, 16, 32, 64)
STEPS_TIMED = 40_000
TD = {"num_envs": 8, "num_steps": 32, "n_step": 5}
A2C = {"num_envs": 8, "num_steps": 32, "gae_lambda": 0.95}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        about: in table and picture.
        algorithm, settings: beside what all arms share.
        patch: changes the algorithm, in the process of a run.
    """

    about: str
    algorithm: str
    settings: Mapping[str, Any]
    patch: Callable[[], None] = lambda: None


def standardized_targets() -> None:
    """Has the TD critic learn targets of mean 0 and std 1 in every batch."""
    credit = actor_critic_td.credit

    def normalised(rollout: Rollout, now: Any) -> tuple[Tensor, Tensor]:
        psi, targets = credit(rollout, now)
        return psi, standardize(targets, rollout.mask)

    actor_critic_td.credit = normalised


STUDIES: dict[str, dict[str, Arm]] = {
    "targets": {
        "rewards": Arm("in units of reward", "actor_critic_td", TD),
        "standardised": Arm("standardised by batch", "actor_critic_td", TD, standardized_targets),
    },
    "norms": {
        "none": Arm("no normalisation", "a2c", A2C),
        "layer": Arm("layer normalisation", "a2c", {**A2C, "layer_norm": True}),
        "batch": Arm("batch normalisation", "a2c", {**A2C, "batch_norm": True}),
    },
}

TITLES = {"targets": "the targets of a TD critic", "norms": "A2C's hidden layers"}


def main() -> None:
    """Trains what is missing, then prints the table and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("envs", *STUDIES))
    parser.add_argument("--environment", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ladder_studies"))
    parser.add_argument("--picture", type=Path, help="a .png")
    parser.add_argument("--child", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        train(options, STUDIES[options.study][options.child[0]], options.child[0], int(options.child[1]))
    elif options.study == "envs":
        environments(options)
    else:
        beside(options)


def shared(environment: str, arm: Arm) -> dict[str, Any]:
    """An arm's settings in full: those of the five fixes beside its own."""
    story = STORIES["five-fixes"]
    rung = replace(story.rungs[0], algorithm=arm.algorithm, settings=arm.settings)
    return settings_of(story, rung, environment)


def train(options: argparse.Namespace, arm: Arm, name: str, seed: int) -> None:
    """One run, in this process."""
    arm.patch()
    settings = {**shared(options.environment, arm), "steps": options.steps}
    path = options.out / options.study / f"{name}-s{seed}"
    advantage.train(arm.algorithm, options.environment, seed=seed, run_dir=path, quiet=True, **settings)


def beside(options: argparse.Namespace) -> None:
    """The arms of a study on the same seeds."""
    arms, folder = STUDIES[options.study], options.out / options.study
    common = ("--environment", options.environment, "--steps", str(options.steps), "--out", str(options.out))
    jobs = [
        Job(f"{name}-s{seed}", ("-m", "benchmarks.ladder_studies", options.study, *common, "--child", name, str(seed)))
        for seed in range(options.seeds)
        for name in arms
        if not (folder / f"{name}-s{seed}").exists()
    ]
    if failed := work(jobs, options.workers, 0, progress(False)):
        sys.exit("\n".join(f"{name}: {error}" for name, error in failed.items()))
    found = {name: [of_run(folder / f"{name}-s{seed}") for seed in range(options.seeds)] for name in arms}
    ends = {name: np.array([at_the_end(curve, options.steps) for curve in curves]) for name, curves in found.items()}
    first = next(iter(arms))
    print("| arm | return at the end of each seed | IQM, 95 % bootstrap | beside the first, paired | critic explains |")
    print("|---|---|---|---|---|")
    for name, arm in arms.items():
        explained = [np.nanmedian(explains(folder / f"{name}-s{seed}")) for seed in range(options.seeds)]
        print(row(arm.about, ends[name], None if name == first else ends[first], float(np.median(explained))))
    if options.picture:
        bands = {arm.about: curve_band(found[name]) for name, arm in arms.items()}
        title = f"{options.environment}: {TITLES[options.study]}"
        panel = Panel(title, "return, mean of 20 episodes", "environment steps", bands)
        write_png([panel], f"IQM over {options.seeds} seeds, 95 % stratified bootstrap", options.picture)


def of_run(path: Path) -> Any:
    episodes = RunReader(path).episodes()
    return score(episodes["return"], episodes["env_steps"])


def explains(path: Path) -> Any:
    """Explained variance of the critic's targets, which knows no unit."""
    return RunReader(path).metrics()["train/explained_variance"]


def curve_band(curves: Sequence[Any]) -> Band:
    return band(curves, interquartile_mean, 2000, 0.95, np.random.default_rng(0), 100)


def row(about: str, ends: Any, first: Any | None, explained: float) -> str:
    """A line of the table."""
    low, high = stratified_bootstrap([ends], interquartile_mean, 2000, 0.95, np.random.default_rng(0))
    told = "–"
    if first is not None and len(ends) > 1:
        found = paired_difference(ends, first, 0.95)
        ends_of = f"[{signed(round(found.low))}, {signed(round(found.high))}]"
        told = f"{signed(round(found.difference))} {ends_of}, p = {found.p_value:.2g}"
    each = ", ".join(f"{end:.0f}" for end in ends)
    iqm = f"{float(interquartile_mean(ends)):.0f} [{float(low):.0f}, {float(high):.0f}]"
    return f"| {about} | {each} | {iqm} | {told} | {number(round(explained, 2))} |"


def environments(options: argparse.Namespace) -> None:
    """Noise of an update's gradient and speed, against the number of environments."""
    folder = options.out / "envs"
    kept = [
        keep(folder / f"noise-s{seed}.json", partial(noise_by_number, options, seed)) for seed in range(options.seeds)
    ]
    speeds = {count: keep(folder / f"speed-{count}.json", partial(speed, options, count)) for count in NUMBERS}
    print("| environments | noise variance/signal² of an update | noise scale, steps | steps/s | updates/s |")
    print("|---|---|---|---|---|")
    relative = {}
    for count in NUMBERS:
        found = [Noise(**by_number[str(count)]) for by_number in kept]
        scales = [noise.scale for noise in found if noise.scale is not None]
        relative[count] = [noise.scale / noise.steps for noise in found if noise.scale is not None]
        if len(scales) < len(found):
            print(f"{count}: the gradient shows on {len(scales)} of {len(found)} policies alone", file=sys.stderr)
        scale = np.exp(np.log(scales).mean())
        ratio = float(np.exp(np.mean(np.log(relative[count]))))
        steps, updates = f"{speeds[count]:,.0f}", f"{speeds[count] / (32 * count):,.0f}"
        print(f"| {count} | {ratio:.3g} | {number(float(f'{scale:.2g}'))} | {steps} | {updates} |")
    if options.picture:
        draw_environments(options, relative, speeds)


def keep(path: Path, measure: Callable[[], Any]) -> Any:
    """What was measured, from its file where it is there."""
    if not path.exists():
        found = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def noise_by_number(options: argparse.Namespace, seed: int) -> dict[int, Mapping[str, float]]:
    """Of A2C's estimates with so many environments of 32 steps, all on one policy: PPO's after 2 % of the budget."""
    path = options.out / "envs" / f"reference-s{seed}"
    if not path.exists():
        story = STORIES["five-fixes"]
        settings = settings_of(story, story.rungs[-1], options.environment) | {"steps": options.steps // 50}
        advantage.train("ppo", options.environment, seed=seed, run_dir=path, quiet=True, **settings)
    material = play(RunReader(path), ESTIMATES * max(NUMBERS), 32, seed)
    found = {}
    for count in NUMBERS:
        now = resolve(a2c.Settings, shared(options.environment, of_environments(count)))
        gradients, steps = _gradients(a2c, now, material, ESTIMATES)
        found[count] = vars(noise_of(gradients, steps, material.direction))
    return found


def of_environments(count: int) -> Arm:
    return Arm(str(count), "a2c", {**A2C, "num_envs": count})


def speed(options: argparse.Namespace, count: int) -> float:
    """Environment steps a second of processor time (one thread: of wall time, on a core of its own), median of three.

    The seconds between a short and a long training, so that setting up does not count.
    """
    found = []
    for again in range(3):
        short, long = (seconds(options, count, again, steps) for steps in (STEPS_TIMED // 5, STEPS_TIMED))
        found.append((long[0] - short[0]) / (long[1] - short[1]))
    return float(np.median(found))


def seconds(options: argparse.Namespace, count: int, seed: int, steps: int) -> tuple[int, float]:
    """Environment steps that a training took, and its seconds of processor time."""
    settings = {**shared(options.environment, of_environments(count)), "steps": steps, "log_kl": False}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        run = advantage.train(
            "a2c", options.environment, seed=seed, run_dir=Path(folder) / "run", quiet=True, **settings
        )
        return int(run.metrics()["env_steps"][-1]), time.process_time() - began


def draw_environments(
    options: argparse.Namespace, relative: Mapping[int, list[float]], speeds: Mapping[int, float]
) -> None:
    """Two panels over the number of environments, doubled from tick to tick."""
    figure, (left, right) = two_panels()
    dress(left, "Noise of a gradient", "noise variance/signal² of an A2C update of 32 steps each", "environments")
    dress(right, "Speed of training", "environment steps a second of processor time, one thread", "environments")
    centre = np.array([np.exp(np.mean(np.log(relative[count]))) for count in NUMBERS])
    left.fill_between(
        NUMBERS, *([of(relative[count]) for count in NUMBERS] for of in (min, max)), color=COLOURS[0], alpha=0.18, lw=0
    )
    left.plot(NUMBERS, centre, color=COLOURS[0], lw=1.9, label=f"geometric mean and range, {options.seeds} policies")
    left.plot(NUMBERS, centre[0] / np.array(NUMBERS), color=SOFT, lw=1.2, ls=":", label="independent steps: 1/number")
    right.plot(NUMBERS, [*speeds.values()], color=COLOURS[1], lw=1.9, label="measured")
    right.plot(NUMBERS, speeds[1] * np.array(NUMBERS), color=SOFT, lw=1.2, ls=":", label="number × that of one")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(NUMBERS, [str(count) for count in NUMBERS])
        axis.set_yscale("log")
        axis.tick_params(which="minor", length=0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.15g}")
        axis.legend(frameon=False, labelcolor=INK, fontsize=8.5, loc="best")
    save(figure, options.picture)


if __name__ == "__main__":
    main()
