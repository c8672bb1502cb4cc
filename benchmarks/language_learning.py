"""Every language algorithm on `tiny` over seeds: held-out accuracy before and after, as a table and a picture.

    python -m benchmarks.language_learning --picture docs/language_learning.png     # under an hour of one core
    python -m benchmarks.language_learning --only grpo dpo                          # some algorithms

Each run has the settings of tuned.toml, and as many updates as its task needs. DPO and the reward model learn from
pairs of the model's own completions, one right and one wrong, that `advantage label` makes. What is there in --out is
not done again, so that an interrupted benchmark continues. Every seed is asked held-out prompts of its own, and no
prompt is asked twice, so that what is pooled over seeds is independent.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import advantage
from advantage.language.agent import LanguageAgent
from advantage.language.evaluation import mcnemar, wilson
from advantage.language.generate import Generator, Samples
from advantage.language.scoring import scorer
from advantage.language.settings import Sampling
from advantage.language.tasks import task as task_of
from advantage.language.template import make_prompt
from advantage.views.picture import COLOURS, INK, LINE, SOFT

BOTH = ("json", "sort")
PLAN = {
    "sft": BOTH, "dpo": BOTH, "rlhf": BOTH, "grpo": BOTH, "reward_model": BOTH,
    "dr_grpo": ("json",), "dapo": ("json",), "rloo": ("json",), "reinforce_pp": ("json",), "gspo": ("json",),
    "cispo": ("json",),
}  # fmt: skip
UPDATES = {"json": 16, "sort": 40}  # where samples are learnt from
GIVEN = ("sft", "dpo", "reward_model")  # those that learn from what is given
FROM_PAIRS = ("dpo", "reward_model")
ASKED = 1500  # held-out prompts of a task at most, parted among the seeds
DRAWN = 6000  # that are looked through for different ones
LABELLED = 2000  # prompts completed twice for the pairs of a seed; of about one in four one answer is right
HEADS = "| algorithm | task | greedy before | after, each seed | pooled, 95 % | p | sampled before → after | s a run |"


class Scores(NamedTuple):
    """Which held-out prompts of a seed were answered rightly, greedily and by one sample at temperature 1."""

    greedy: list[bool]
    sampled: list[bool]


def main() -> None:
    """Trains what is missing, then prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PLAN, default=list(PLAN), metavar="ALGORITHM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/language_learning"))
    parser.add_argument("--picture", type=Path, help="such as docs/language_learning.png; none where it is not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [(name, task) for name in options.only for task in PLAN[name]]
    folders = {job: [run(*job, seed, options.out) for seed in range(options.seeds)] for job in jobs}
    policies = {job: paths for job, paths in folders.items() if job[0] != "reward_model"}
    print(HEADS + "\n" + "|---" * 8 + "|")
    for (name, task), paths in policies.items():
        print(row(name, task, paths, options.out), flush=True)
    if "reward_model" in options.only:
        print("\n| task | held-out pairs, each seed | right one scored higher, pooled, 95 % |\n|---|---|---|")
        for task in PLAN["reward_model"]:
            print(reward_model_row(task, folders["reward_model", task]), flush=True)
    if options.picture:
        draw({job: pooled(paths, job[1], len(paths), options.out) for job, paths in policies.items()}, options)


def run(name: str, task: str, seed: int, out: Path) -> Path:
    """One run in a process of its own, unless it is there."""
    path = out / f"{name}-{task}-s{seed}"
    if path.exists():
        if advantage.load(path).reader.status()["state"] == "finished":
            return path
        arguments = ["resume", str(path)]
    else:
        arguments = ["train", name, "tiny", "--seed", str(seed), "--run-dir", str(path)]
        arguments += ["--data", str(pairs(task, seed, out))] if name in FROM_PAIRS else []
        arguments += ["--task", task] if name != "reward_model" else []
        often = 5 if name in GIVEN else UPDATES[task] // 8
        watched = [f"eval_every={often}", "eval_episodes=500"] if name != "reward_model" else []
        budget = [] if name in GIVEN else [f"steps={UPDATES[task]}"]
        arguments += [word for one in (*watched, *budget) for word in ("--set", one)]
    command(*arguments, "--quiet")
    return path


def pairs(task: str, seed: int, out: Path) -> Path:
    """Pairs of the model's own completions of training prompts, ranked by the task, unless they are there."""
    path = out / f"pairs-{task}-s{seed}.jsonl"
    if not path.exists():
        draft = path.with_suffix(".draft.jsonl")
        draft.unlink(missing_ok=True)
        asked = ["--by", "task", "--pairs", str(LABELLED), "--seed", str(seed), "--out", str(draft)]
        command("label", "tiny", "--task", task, *asked)
        draft.rename(path)
    return path


def draw(found: Mapping[tuple[str, str], Scores], options: argparse.Namespace) -> None:
    """Held-out accuracy after training beside that of `tiny` before it, a panel a task."""
    tasks = {wanted: [name for name, task in found if task == wanted] for _, wanted in found}
    height = max(map(len, tasks.values()))
    with rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(5.2 * len(tasks), 0.9 + 0.3 * height), layout="constrained")
        for axis, (task, names) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
            before = pooled("tiny", task, options.seeds, options.out)
            draw_task(axis, before, {name: found[name, task] for name in names})
            axis.set_ylim(len(names) - height - 0.5, len(names) - 0.5)
            axis.set_title(f"tiny {task}", loc="left", fontsize=11, fontweight="bold", color=INK)
        said = f"Held-out accuracy, {options.seeds} seeds pooled, Wilson's 95 % intervals."
        figure.supxlabel(f"{said} Blue: greedy. Orange: sampled. Shade: before.", fontsize=8.5, color=SOFT)
        figure.savefig(options.picture, dpi=160, metadata={"Software": None})


def draw_task(axis: Axes, before: Scores, after: Mapping[str, Scores]) -> None:
    """A line an algorithm, greedy above sampled; the model before it as a shade."""
    places = {name: len(after) - 1 - i for i, name in enumerate(after)}
    for colour, kind, shift in ((COLOURS[0], "greedy", 0.12), (COLOURS[1], "sampled", -0.12)):
        axis.axvspan(*bounds(getattr(before, kind)), color=colour, alpha=0.18, linewidth=0)
        for name, place in places.items():
            right = getattr(after[name], kind)
            axis.plot(bounds(right), [place + shift] * 2, color=colour, linewidth=1.6)
            axis.plot(share(right), place + shift, "o", color=colour, markersize=4.5)
    axis.set_yticks(list(places.values()), list(places))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, length=0)


def command(*arguments: str) -> None:
    """A command of ours in a process of its own."""
    subprocess.run([sys.executable, "-m", "advantage.cli", *arguments], check=True, stdout=sys.stderr)


def scores(of: Path | str, task: str, seed: int, seeds: int, out: Path) -> Scores:
    """How a run's policy, or a model, answers the held-out prompts of a seed; kept in a file beside the runs."""
    file = out / f"{Path(of).name}-{task}-s{seed}-of-{seeds}.scores.json"
    if not file.exists():
        agent = LanguageAgent.of(of) if isinstance(of, str) else advantage.load(of).policy
        greedy, sampled = (right(answers(agent, task, seed, seeds, 1, t), task) for t in (0.0, 1.0))
        file.write_text(json.dumps([greedy, sampled]))
    return Scores(*json.loads(file.read_text()))


@functools.cache
def held_out(task: str, seeds: int) -> list[int]:
    """Indices of held-out examples of which no two have the same prompt; seed s has every `seeds`-th from s."""
    chosen, seen = task_of(task), dict[str, int]()
    for index in range(DRAWN):
        seen.setdefault(str(chosen.example(index, held_out=True)["prompt"]), index)
        if len(seen) == ASKED:
            break
    return list(seen.values())[: len(seen) // seeds * seeds]


def answers(agent: LanguageAgent, task: str, seed: int, seeds: int, n: int, temperature: float) -> Samples:
    """What a policy says to the held-out prompts of a seed, n times each."""
    chosen = task_of(task)
    indices = held_out(task, seeds)[seed::seeds]
    prompts = [make_prompt(agent.tokenizer, chosen.example(index, held_out=True), index) for index in indices]
    generator = Generator(agent.policy, agent.tokenizer, Sampling(), chosen, seed)
    return generator.draw(prompts, n, step=0, temperature=temperature)


def right(samples: Samples, task: str) -> list[bool]:
    """Which of the answers are."""
    shown, said = conversations(samples)
    answer = [prompt.columns["answer"] for prompt in samples.prompts for _ in range(samples.n)]
    return [bool(reward) for reward in task_of(task).reward(shown, said, answer=answer)]


def conversations(samples: Samples) -> tuple[list[Any], list[Any]]:
    """Prompts and completions as rewards read them."""
    shown = [prompt.shown for prompt in samples.prompts for _ in range(samples.n)]
    return shown, [[{"role": "assistant", "content": text}] for text in samples.texts]


def row(name: str, task: str, paths: Sequence[Path], out: Path) -> str:
    """A line of the table: a task's held-out accuracy before and after, over the seeds."""
    before, after = pooled("tiny", task, len(paths), out), pooled(paths, task, len(paths), out)
    sampled = f"{share(before.sampled):.3f} → {share(after.sampled):.3f} ({p_value(before.sampled, after.sampled)})"
    cells = [name, task, interval(before.greedy), of_each(after.greedy, len(paths)), interval(after.greedy)]
    cells += [p_value(before.greedy, after.greedy), sampled, f"{seconds(paths):.0f}"]
    return f"| {' | '.join(cells)} |"


def pooled(of: str | Sequence[Path], task: str, seeds: int, out: Path) -> Scores:
    """Each seed's run, or one model, on each seed's own prompts, one after the other."""
    parts = [scores(of if isinstance(of, str) else of[seed], task, seed, seeds, out) for seed in range(seeds)]
    return Scores(*(list(chain(*column)) for column in zip(*parts, strict=True)))


def of_each(right: Sequence[bool], seeds: int) -> str:
    """The share of each seed, where all have as many prompts."""
    size = len(right) // seeds
    return ", ".join(f"{share(right[i * size : (i + 1) * size]):.3f}" for i in range(seeds))


def p_value(before: Sequence[bool], after: Sequence[bool]) -> str:
    """McNemar's, exact and two-sided."""
    return f"{mcnemar(before, after):.1g}"


def share(right: Sequence[bool]) -> float:
    """Of the prompts that were answered rightly."""
    return sum(right) / len(right)


def bounds(right: Sequence[bool]) -> tuple[float, float]:
    """Wilson's interval of the share."""
    return wilson(sum(right), len(right))


def interval(right: Sequence[bool]) -> str:
    """A share with its interval."""
    low, high = bounds(right)
    return f"{share(right):.3f} [{low:.3f}, {high:.3f}]"


def seconds(paths: Sequence[Path]) -> float:
    """What a run took, evaluations included, the median of the runs."""
    return statistics.median(float(advantage.load(path).metrics()["wall_time"][-1]) for path in paths)


def reward_model_row(task: str, paths: Sequence[Path]) -> str:
    """How often a reward model scores the right one of two completions of a held-out prompt higher."""
    found = [reward_model_hits(path, task, seed, len(paths)) for seed, path in enumerate(paths)]
    each = ", ".join(f"{share(hits):.3f} of {len(hits)}" for hits in found)
    return f"| {task} | {each} | {interval(list(chain(*found)))} |"


def reward_model_hits(path: Path, task: str, seed: int, seeds: int) -> list[bool]:
    """One verdict a pair: `tiny` answers held-out prompts twice, and pairs with one right answer count."""
    samples = answers(LanguageAgent.of("tiny"), task, seed, seeds, 2, 1.0)
    found, score = right(samples, task), scorer(str(path / "policy"))(*conversations(samples))
    both = zip(found[::2], found[1::2], score[::2], score[1::2], strict=True)
    return [(a > b) == (first > second) for first, second, a, b in both if first != second]


if __name__ == "__main__":
    main()
