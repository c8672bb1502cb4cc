"""What each part of DAPO and of Dr. GRPO does on `tiny`: GRPO with one part at a time, and with all of each.

    python -m benchmarks.language_ablation --picture docs/language_ablation.png       # half an hour of one core

All arms are one loop, DAPO's, with the parts that an arm lacks taken back: the ceiling, resampling and the overlong
rules by their settings, the reductions and the spread by GRPO's stages. Everything else is grpo's in tuned.toml. A
completion may be longer than the longest right answer (37 tokens), so that the soft punishment takes nothing from one.
The held-out prompts are those of benchmarks/language_learning.py. What is there in --out is not done again.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import advantage
from advantage.algorithms import dapo, dr_grpo, grpo, tuned
from advantage.views.curves import Band, Curve, band, interquartile_mean
from advantage.views.picture import Panel, write_png
from benchmarks.language_learning import Scores, pooled, share

TASK, UPDATES = "json", 12
HEADS = "| arm | greedy | beside GRPO, 95 % | sampled | beside GRPO, 95 % | prompts drawn | cut | clipped | s a run |"
GRPO = {"eps_high": 0.2, "max_draws": 1, "overlong_filter": False, "overlong_cache": 0, "max_completion_length": 48}
WATCHED = ("completions/clipped_ratio", "train/clip_fraction")
CEILING, DRAWS = {"eps_high": 0.28}, {"max_draws": 10}
OVERLONG = {"overlong_filter": True, "overlong_cache": 10}
TOKEN_MEAN = {"reduce": dapo.STAGES.reduce}
NO_SPREAD, ONE_LENGTH = {"advantages": dr_grpo.STAGES.advantages}, {"reduce": dr_grpo.STAGES.reduce}


class Arm(NamedTuple):
    """GRPO with some settings and stages exchanged."""

    about: str
    settings: Mapping[str, Any]
    stages: Mapping[str, Any]


ARMS = {
    "grpo": Arm("GRPO", {}, {}),
    "ceiling": Arm("+ higher ceiling (ε_high 0.28)", CEILING, {}),
    "draws": Arm("+ groups without spread drawn anew", DRAWS, {}),
    "tokens": Arm("+ token mean", {}, TOKEN_MEAN),
    "overlong": Arm("+ overlong rules", OVERLONG, {}),
    "dapo": Arm("DAPO: all four", CEILING | DRAWS | OVERLONG, TOKEN_MEAN),
    "no_spread": Arm("+ no division by the spread", {}, NO_SPREAD),
    "one_length": Arm("+ one length for all", {}, ONE_LENGTH),
    "dr_grpo": Arm("Dr. GRPO: both", {}, NO_SPREAD | ONE_LENGTH),
}


def main() -> None:
    """Trains what is missing, then prints the table and draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/language_ablation"))
    parser.add_argument("--picture", type=Path, help="of DAPO beside GRPO, a .png")
    parser.add_argument("--child", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        train(options.child[0], int(options.child[1]), options.out)
        return
    paths = {arm: [run(arm, seed, options.out) for seed in range(options.seeds)] for arm in ARMS}
    found = {arm: pooled(paths[arm], TASK, options.seeds, options.out) for arm in ARMS}
    print(HEADS + "\n" + "|---" * 9 + "|")
    for arm in ARMS:
        print(row(arm, paths[arm], found[arm], found["grpo"]))
    if options.picture:
        draw({ARMS[arm].about: paths[arm] for arm in ("grpo", "dapo", "draws")}, options.picture)


def run(arm: str, seed: int, out: Path) -> Path:
    """One run in a process of its own, unless it is there and finished."""
    path = folder(arm, seed, out)
    if not path.exists() or advantage.load(path).reader.status()["state"] != "finished":
        shutil.rmtree(path, ignore_errors=True)  # not resumed: the command line knows no arms
        command = [sys.executable, "-m", "benchmarks.language_ablation", "--out", str(out), "--child", arm, str(seed)]
        subprocess.run(command, check=True)
    return path


def folder(arm: str, seed: int, out: Path) -> Path:
    """Where the run of an arm and a seed is kept."""
    return out / f"{arm}-s{seed}"


def train(arm: str, seed: int, out: Path) -> None:
    """DAPO's loop with the stages of an arm in the place of its own."""
    stages = replace(grpo.STAGES, collect=dapo.STAGES.collect, shape=dapo.STAGES.shape, keep=dapo.STAGES.keep)
    dapo.train = partial(grpo.train, stages=replace(stages, **ARMS[arm].stages))
    settings = {**tuned("grpo", "tiny"), **GRPO, **ARMS[arm].settings, "steps": UPDATES}
    settings |= {"eval_every": 2, "eval_episodes": 500}
    advantage.train("dapo", "tiny", task=TASK, seed=seed, run_dir=folder(arm, seed, out), quiet=True, **settings)


def row(arm: str, paths: Sequence[Path], found: Scores, beside: Scores) -> str:
    """A line of the table."""
    metrics = [advantage.load(path).metrics() for path in paths]
    mean = {name: float(np.mean([table[name].mean() for table in metrics])) for name in WATCHED}
    cells = [ARMS[arm].about]
    for kind in ("greedy", "sampled"):
        mine, its = getattr(found, kind), getattr(beside, kind)
        cells += [f"{share(mine):.3f}", "–" if arm == "grpo" else difference(its, mine)]
    prompts = f"{np.mean([sampled(table)[-1] for table in metrics]):,.0f}"
    seconds = f"{np.median([table['wall_time'][-1] for table in metrics]):.0f}"
    cells += [prompts, f"{mean[WATCHED[0]]:.2%}", f"{mean[WATCHED[1]]:.2%}", seconds]
    return f"| {' | '.join(cells)} |"


def difference(before: Sequence[bool], after: Sequence[bool]) -> str:
    """Of two shares of the same prompts, with its normal interval; prompts are drawn anew in it, seeds are not."""
    changes = np.array(after, dtype=float) - np.array(before, dtype=float)
    half = 1.96 * changes.std() / math.sqrt(len(changes))
    return f"{changes.mean():+.3f} [{changes.mean() - half:+.3f}, {changes.mean() + half:+.3f}]"


def sampled(metrics: Mapping[str, Any]) -> Any:
    """Prompts that were completed up to each update, those included that were drawn and dropped."""
    return np.cumsum(metrics["completions/draws"]) * tuned("grpo", "tiny")["batch_size"]


def draw(groups: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Held-out accuracy against updates, and against what it cost: prompts sampled."""
    panels = []
    for title, unit in (("by updates", "updates"), ("by prompts sampled", "prompts sampled")):
        tables = {name: [advantage.load(path).metrics() for path in paths] for name, paths in groups.items()}
        bands = {name: curve(of_group, unit) for name, of_group in tables.items()}
        panels.append(Panel(f"tiny {TASK} {title}", "held-out accuracy, greedy", unit, bands))
    write_png(panels, "Mean over 3 seeds, 95 % bootstrap", out)


def curve(metrics: Sequence[Mapping[str, Any]], unit: str) -> Band:
    """The mean over seeds with its band."""
    curves = []
    for table in metrics:
        steps = sampled(table) if unit != "updates" else np.arange(1, len(table["reward"]) + 1)
        known = np.isfinite(table["eval/mean_reward"])
        curves.append(Curve(steps[known].astype(float), table["eval/mean_reward"][known]))
    return band(curves, interquartile_mean, 2000, 0.95, np.random.default_rng(0))


if __name__ == "__main__":
    main()
