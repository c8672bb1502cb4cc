"""`advantage ladder ENV`: the rungs of a story on one budget and the same seeds, and what each of them changed.

A ladder is a folder: ladder.toml says what it holds, RUNG-sN is a run, reference-sN the run on whose policy the noise
of every rung's gradient is measured, and noise-sN.json what came of that. What is there is not done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advantage.control.targets import find_spec
from advantage.errors import UserError
from advantage.experiments.measured import Result, result
from advantage.experiments.plans import Experiment, check_targets, claim, planned, run_all
from advantage.experiments.processes import Job, work
from advantage.experiments.sentences import opening, sentence
from advantage.experiments.stories import Rung, Story, find_story, settings_of
from advantage.runs.encode import loads
from advantage.runs.progress import progress

# The part of the budget after which the last rung's policy is the one that gradients are measured on: early, where
# there is still something to learn and every rung's gradient shows.
REFERENCE = 0.02


@dataclass(frozen=True)
class Ladder:
    """What is to be climbed.

    Attributes:
        environment, story: as asked for; `name` is the story's.
        steps: budget of a run; None for the environment's own.
        arguments: of the environment, one ladder each.
        seeds: 0 … seeds − 1.
        threshold: of the return; None where the environment registers none.
        out: the folder.
    """

    environment: str
    name: str
    story: Story
    steps: int | None
    arguments: tuple[Mapping[str, Any], ...]
    seeds: int
    threshold: float | None
    out: Path

    def title(self, place: int) -> str:
        """The environment with the arguments of a place."""
        return " ".join([self.environment, *(f"{name}={value}" for name, value in self.arguments[place].items())])

    def folder(self, name: str, place: int, seed: int) -> Path:
        """Where the run of a rung is kept; `place` is that of the environment's arguments."""
        return self.out / f"{name}{f'-{place}' if place else ''}-s{seed}"

    def noise(self, place: int, seed: int) -> Path:
        """Where the noise of the rungs' gradients stands."""
        return self.folder("noise", place, seed).with_suffix(".json")


@dataclass(frozen=True)
class Climbed:
    """What came of a ladder.

    Attributes:
        results: of each rung, for each of the environment's arguments by its title.
        videos: of each rung's policy, where the story shows them.
        notes: what a reader should know.
        failed: what the runs that failed said, by their names.
    """

    ladder: Ladder
    results: dict[str, list[Result]]
    videos: tuple[Path, ...]
    notes: tuple[str, ...]
    failed: dict[str, str]


def prepare(
    environment: str, story: str, seeds: int, steps: int | None, env_args: Mapping[str, Any], out: str | Path | None
) -> Ladder:
    """A ladder, checked before anything is made.

    Args:
        environment: a Gymnasium id.
        story: a name of `STORIES`.
        seeds: ≥ 1.
        steps: budget of a run in environment steps; None for the environment's own.
        env_args: arguments of the environment. What a story varies and they name is not varied.
        out: the folder; None for runs/ladder-<story>-<environment>.

    Raises:
        UserError: there is no such story or environment, or the environment lacks an argument.
    """
    told, spec = find_story(story), find_spec(environment)
    folder = Path("runs") / f"ladder-{story}-{spec.id.replace('/', '-')}" if out is None else Path(out)
    ladder = Ladder(environment, story, told, steps, (), seeds, spec.reward_threshold, folder)
    ladder = replace(ladder, arguments=tuple(_arguments(ladder, env_args)))
    check_targets(_experiments(ladder))
    return ladder


def climb(ladder: Ladder, workers: int, quiet: bool = False) -> Climbed:
    """Trains what is missing, measures the gradients, and says what each rung did.

    Raises:
        UserError: the folder holds something else.
        Interrupted: the user asked to stop; the same call goes on.
    """
    experiments = _experiments(ladder)
    claim(ladder.out, "ladder", {"runs": [each.told() for each in experiments if each.plan.seed == 0]})
    failed = run_all(experiments, ladder.out, workers, quiet)
    failed |= work(list(_measurements(ladder)), workers, 0, progress(quiet))
    places = range(len(ladder.arguments))
    results = {ladder.title(place): _results(ladder, place) for place in places}
    videos, notes = _videos(ladder) if ladder.story.videos else ((), ())
    return Climbed(ladder, results, videos, notes, failed)


def _arguments(ladder: Ladder, given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the story varies, as far as the environment knows it and the user has not said it."""
    for variant in ladder.story.variants:
        if set(variant) & set(given):
            continue
        arguments = {**given, **variant}
        try:
            check_targets([_planned(ladder, ladder.story.rungs[-1], 0, 0, arguments)])
        except UserError:
            if not variant:
                raise
        else:
            yield arguments


def _experiments(ladder: Ladder) -> list[Experiment]:
    """All runs, seed by seed: the story can be followed early."""
    found: list[Experiment] = []
    for seed in range(ladder.seeds):
        for place, arguments in enumerate(ladder.arguments):
            found += [_planned(ladder, rung, place, seed, arguments) for rung in ladder.story.rungs]
            steps = max(1, round(REFERENCE * found[-1].plan.settings.steps))
            reference = replace(ladder.story.rungs[-1], name="reference")
            found.append(_planned(replace(ladder, steps=steps), reference, place, seed, arguments))
    return found


def _planned(ladder: Ladder, rung: Rung, place: int, seed: int, arguments: Mapping[str, Any]) -> Experiment:
    settings = settings_of(ladder.story, rung, ladder.environment) | {"env_args": dict(arguments)}
    if ladder.steps is not None:
        settings["steps"] = ladder.steps
    name = ladder.folder(rung.name, place, seed).name
    return planned(name, rung.algorithm, ladder.environment, seed, settings)


def _measurements(ladder: Ladder) -> Iterator[Job]:
    """The noise of all rungs' gradients on the policy of each reference, where it is not measured yet."""
    for seed in range(ladder.seeds):
        for place in range(len(ladder.arguments)):
            out, reference = ladder.noise(place, seed), ladder.folder("reference", place, seed)
            runs = [ladder.folder(rung.name, place, seed) for rung in ladder.story.rungs]
            begun = [path for path in runs if (path / "config.toml").exists()]
            if (reference / "policy").exists() and unmeasured(out, begun):
                yield Job(out.stem, ("-m", "advantage.experiments.noise", *map(str, (out, reference, *begun))))


def unmeasured(out: Path, begun: Sequence[Path]) -> bool:
    """Whether a rung has begun since the noise of all was written, or none was."""
    return not out.exists() or not {path.name for path in begun} <= set(loads(out.read_bytes()))


def _results(ladder: Ladder, place: int) -> list[Result]:
    found: list[Result] = []
    seeds, threshold = range(ladder.seeds), ladder.threshold
    noises = [ladder.noise(place, seed) for seed in seeds]
    for rung in ladder.story.rungs:
        new = result(rung.label, [ladder.folder(rung.name, place, seed) for seed in seeds], noises, threshold)
        words = sentence(new.measured, found[-1].measured, threshold) if found else opening(new.measured, threshold)
        found.append(replace(new, sentence=words))
    return found


def _videos(ladder: Ladder) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """An episode of the first seed's policy of each rung, where it is not there yet; a line where it cannot be."""
    from advantage import api
    from advantage.control.video import record

    made = []
    try:
        for place in range(len(ladder.arguments)):
            for rung in ladder.story.rungs:
                path = ladder.folder(rung.name, place, 0)
                made.append(path.with_suffix(".gif"))
                if not made[-1].exists():
                    record(api.load(path).policy, made[-1], seed=1)
    except (UserError, ImportError) as error:
        return tuple(made[:-1]), (f"no video of {path.name}: {error}",)
    return tuple(made), ()
