"""Groups of runs beside each other, by the scores at which their runs ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from advantage.errors import UserError
from advantage.runs.kinds import Measure
from advantage.views.curves import Array, interquartile_mean, stratified_bootstrap
from advantage.views.html import number
from advantage.views.picture import Panel
from advantage.views.statistics import improvement, on_one_scale, paired_difference, profile

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0  # of every bootstrap, so that a group's band does not depend on what it is compared with
POINTS = 200  # thresholds of a performance profile
EVERYWHERE = "all environments"
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"


@dataclass(frozen=True)
class Finals:
    """The scores at which the runs of a group ended, by their seeds.

    Attributes:
        environment, label: of the group.
        measure: what the scores are.
        scores: by seed, ascending; runs without a score are not in it.
    """

    environment: str
    label: str
    measure: Measure
    scores: dict[int, float]

    @property
    def good(self) -> Array:
        """The scores, more of which is better, (runs,)."""
        found = np.array(list(self.scores.values()))
        return -found if self.measure.lower else found


@dataclass(frozen=True)
class Improvement:
    """The chance that a run of one group ends better than one of another, with its 95 % interval.

    Attributes:
        environment: where; `EVERYWHERE` for the average over all.
        label, beside: the groups.
        probability: in [0, 1], ties count half.
        low, high: its interval; None where one run of each leaves nothing to draw anew.
    """

    environment: str
    label: str
    beside: str
    probability: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pooled:
    """The IQM of a group over all runs of all environments, each brought to the range of the runs compared in it."""

    label: str
    environments: int
    runs: int
    iqm: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Scores of equal seeds, one group's less another's; see `statistics.PairedDifference`."""

    environment: str
    label: str
    beside: str
    seeds: tuple[int, ...]
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


def improvements(groups: Sequence[Finals]) -> Iterator[Improvement]:
    """Each group beside the first one of its environment and measure; last, those that are in all of several."""
    for first, *others in _comparable(groups):
        for other in others:
            yield _improvement(other.environment, [other], [first])
    everywhere = _everywhere(groups)
    for group in everywhere[1:]:
        yield _improvement(EVERYWHERE, group, everywhere[0])


def pooled(groups: Sequence[Finals]) -> Iterator[Pooled]:
    """The groups that are in all of several environments, on one scale."""
    everywhere = _everywhere(groups)
    scaled = on_one_scale([[one.good for one in group] for group in everywhere])
    for group, strata in zip(everywhere, scaled, strict=True):
        scores = np.concatenate(strata)
        low = high = None
        if any(len(stratum) > 1 for stratum in strata):
            ends = stratified_bootstrap(strata, interquartile_mean, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED))
            low, high = map(float, ends)
        yield Pooled(group[0].label, len(strata), len(scores), float(interquartile_mean(scores)), low, high)


def differences(groups: Sequence[Finals]) -> Iterator[Difference]:
    """Each group beside the first one, on the seeds that both have.

    Raises:
        UserError: there is no other group, or no seed that both have.
    """
    parts = _comparable(groups)
    if all(len(part) < 2 for part in parts):
        labels = ", ".join(group.label for group in groups)
        raise UserError(f"--paired compares two groups or more, these runs are one: {labels}; give runs that differ")
    for first, *others in parts:
        for other in others:
            seeds = tuple(seed for seed in other.scores if seed in first.scores)
            if not seeds:
                told = "; ".join(f"{one.label}: {', '.join(map(str, one.scores)) or 'none'}" for one in (first, other))
                raise UserError(f"--paired compares runs of equal seeds, these have none in common: {told}")
            mine, its = (np.array([one.scores[seed] for seed in seeds]) for one in (other, first))
            found = paired_difference(mine, its, CONFIDENCE)
            turned = {"better": "worse", "worse": "better"} if first.measure.lower else {}
            yield Difference(
                other.environment, other.label, first.label, seeds, found.difference, found.low, found.high,
                found.p_value, turned.get(found.verdict, found.verdict),
            )  # fmt: skip


def profiles(groups: Sequence[Finals]) -> Iterator[Panel]:
    """Of each environment, and of all together on one scale, the share of runs above each score.

    None where no group has several runs, for then it is a step at each score; and none of a loss.
    """
    for part in _comparable(groups):
        if any(len(group.scores) > 1 for group in part) and not part[0].measure.lower:
            scores = {group.label: [group.good] for group in part}
            yield _profile(part[0].environment, part[0].measure.word, scores)
    if everywhere := _everywhere(groups):
        scaled = on_one_scale([[one.good for one in group] for group in everywhere])
        scores = {group[0].label: strata for group, strata in zip(everywhere, scaled, strict=True)}
        yield _profile(EVERYWHERE, "score, 0 the least and 1 the greatest of an environment's runs", scores)


def notes(groups: Sequence[Finals], paired: bool) -> Iterator[str]:
    """What a reader of the tables would otherwise get wrong."""
    for first, *others in _comparable(groups):
        apart = [one.label for one in others if _apart(one.good, first.good)]
        if apart:
            told = ", ".join(apart)
            yield (
                f"{first.environment}: every run of {first.label} lies on one side of every run of {told}; the interval"
                " of so clear a probability is a point, since runs drawn anew lie there too, and says nothing of how"
                " few they are"
            )
        for one in others if paired else ():
            lone = sorted(first.scores.keys() ^ one.scores.keys())
            if lone:
                yield f"{one.label} beside {first.label}: seeds that only one of them has are left out: {lone}"


def table_of_improvements(rows: Sequence[Improvement]) -> list[tuple[str, ...]]:
    """As text, the heads first."""
    body = [
        (
            row.environment,
            f"P({row.label} ends better than {row.beside})",
            number(round(row.probability, 4)),
            _between(row),
        )
        for row in rows
    ]
    return [("environment", "comparison", "probability", INTERVAL), *body]


def table_of_pooled(rows: Sequence[Pooled]) -> list[tuple[str, ...]]:
    """As text, the heads first."""
    body = [
        (EVERYWHERE, row.label, str(row.environments), str(row.runs), number(row.iqm), _between(row)) for row in rows
    ]
    return [("scores from 0 to 1", "runs", "environments", "count", "IQM", INTERVAL), *body]


def table_of_differences(rows: Sequence[Difference]) -> list[tuple[str, ...]]:
    """As text, the heads first."""
    body = [
        (
            row.environment, f"{row.label} less {row.beside}", str(len(row.seeds)), signed(row.difference),
            _between(row, signed), "–" if row.p_value is None else f"{row.p_value:.2g}", row.verdict,
        )
        for row in rows
    ]  # fmt: skip
    return [("environment", "paired by seed", "pairs", "difference", INTERVAL, "p", "verdict"), *body]


def signed(value: float) -> str:
    """A difference: its sign is always written.

    >>> signed(3.0), signed(-0.5), signed(0.0)
    ('+3', '−0.5', '0')
    """
    return f"{'+' if value > 0 else ''}{number(value)}"


def _improvement(environment: str, these: Sequence[Finals], those: Sequence[Finals]) -> Improvement:
    found = improvement(
        [one.good for one in these], [one.good for one in those], RESAMPLES, CONFIDENCE, np.random.default_rng(SEED)
    )
    return Improvement(environment, these[0].label, those[0].label, found.value, found.low, found.high)


def _profile(environment: str, unit: str, scores: dict[str, list[Array]]) -> Panel:
    everything = np.concatenate([stratum for strata in scores.values() for stratum in strata])
    thresholds = np.linspace(everything.min(), everything.max(), POINTS)
    bands = {
        label: profile(strata, thresholds, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED))
        for label, strata in scores.items()
    }
    return Panel(environment, "performance profile: share of runs that end above", unit, bands, from_zero=False)


def _comparable(groups: Sequence[Finals]) -> list[list[Finals]]:
    """Groups with scores, those of one environment and one measure together."""
    parts: dict[tuple[str, str], list[Finals]] = {}
    for group in groups:
        if group.scores:
            parts.setdefault((group.environment, group.measure.name), []).append(group)
    return list(parts.values())


def _everywhere(groups: Sequence[Finals]) -> list[list[Finals]]:
    """The groups that are in every one of several environments, by the same measure: each as a list over them."""
    parts = _comparable(groups)
    environments = {group.environment for group in groups}
    if len(environments) < 2 or len(parts) != len(environments):
        return []
    labels = [group.label for group in parts[0] if all(group.label in {o.label for o in part} for part in parts)]
    by_label = [{group.label: group for group in part} for part in parts]
    return [[part[label] for part in by_label] for label in labels]


def _apart(these: Array, those: Array) -> bool:
    few = len(these) > 1 or len(those) > 1
    return few and bool(these.min() > those.max() or these.max() < those.min())


def _between(row: Improvement | Pooled | Difference, written: Callable[[float], str] = number) -> str:
    return "–" if row.low is None or row.high is None else f"{written(row.low)} … {written(row.high)}"
