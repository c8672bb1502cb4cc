"""A sentence a rung, from its numbers alone: what it did to the return, and what changed with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from advantage.views.contrasts import CONFIDENCE, INTERVAL, signed
from advantage.views.html import number
from advantage.views.statistics import PairedDifference, paired_difference

SAME = 1e-4  # of a logarithm: what rounding leaves between two ways to the same estimate


@dataclass(frozen=True)
class Measured:
    """What was measured of a rung, by seed.

    Attributes:
        label: of the rung.
        returns: at its end.
        reached: environment steps at which the threshold was first reached; None where it never was.
        noise: noise scale of its gradient estimate, in environment steps, on the policy that all rungs share; seeds in
            which no gradient could be told from the noise are not in it.
        moved: KL(old‖new) of its updates, the median, in nats.
        failed: seeds whose run broke off.
    """

    label: str
    returns: Mapping[int, float]
    reached: Mapping[int, float | None]
    noise: Mapping[int, float]
    moved: Mapping[int, float]
    failed: tuple[int, ...] = ()


def opening(rung: Measured, threshold: float | None) -> str:
    """The sentence of the first rung, which has none before it."""
    return _joined(
        f"{rung.label} ends at a mean return of {_mean(rung.returns)}"
        if rung.returns
        else f"{rung.label} has no return",
        *_reaching(rung, threshold),
        *(f"its gradient's noise scale is {_steps(rung)}" for _ in [0] if rung.noise),
        *(f"an update moves the policy by {_nats(rung)}" for _ in [0] if rung.moved),
        *_broken(rung),
    )


def sentence(rung: Measured, before: Measured, threshold: float | None) -> str:
    """What a rung changed, beside the one before it, on the seeds of both.

    "Better" and "worse" are said where the 95 % interval of the mean difference of equal seeds leaves 0 out, "not
    distinguishable" where it does not; likewise of the noise scale, by the logarithm of the ratio.
    """
    return _joined(
        _verdict(rung, before),
        *_reaching(rung, threshold, before),
        *_noise(rung, before),
        *(f"an update moves the policy by {_nats(rung)} (before: {_nats(before)})" for _ in [0] if rung.moved),
        *_broken(rung),
    )


def _joined(first: str, *others: str) -> str:
    return "; ".join([first[0].upper() + first[1:], *others]) + "."


def _verdict(rung: Measured, before: Measured) -> str:
    seeds = [seed for seed in rung.returns if seed in before.returns]
    if not seeds:
        return f"{rung.label} cannot be set beside {before.label}: no seed has a return of both"
    new, old = ({seed: one.returns[seed] for seed in seeds} for one in (rung, before))
    found = _difference(new, old)
    told = f"mean return {_mean(new)} against {_mean(old)}"
    if found.low is None or found.high is None:
        return f"{rung.label} beside {before.label}, in one seed, which decides nothing: {told}"
    relation = "not distinguishable from" if found.verdict == "not distinguishable" else f"{found.verdict} than"
    ends = f"{signed(_short(found.low))} … {signed(_short(found.high))}"
    difference = f"a difference of {signed(_short(found.difference))} ({INTERVAL} {ends})"
    return f"{rung.label} is {relation} {before.label}: {told}, {difference}"


def _reaching(rung: Measured, threshold: float | None, before: Measured | None = None) -> Iterator[str]:
    """How many seeds came to the threshold, and how soon."""
    if threshold is None or not rung.reached:
        return
    if before is None:
        yield f"a return of {number(threshold)} is reached by {_share(rung)}"
    elif _came(rung) or _came(before):
        yield f"a return of {number(threshold)} is reached by {_share(rung)} (before: by {_share(before)})"
    else:
        yield f"no seed of either reaches a return of {number(threshold)}"


def _came(rung: Measured) -> list[float]:
    return [steps for steps in rung.reached.values() if steps is not None]


def _share(rung: Measured) -> str:
    count = f"{len(_came(rung)) or 'none'} of {len(rung.reached)} seed{'s' if len(rung.reached) > 1 else ''}"
    return (
        f"{count}, after {number(_short(float(np.median(_came(rung)))))} steps in the median" if _came(rung) else count
    )


def _noise(rung: Measured, before: Measured) -> Iterator[str]:
    """The ratio of the noise scales: the geometric mean over seeds, by Student's interval of its logarithm."""
    seeds = [seed for seed in rung.noise if seed in before.noise]
    if not seeds:
        if rung.noise or before.noise:
            yield "its gradient's noise cannot be set beside the one before: no gradient showed through"
        return
    new, old = ({seed: float(np.log(one.noise[seed])) for seed in seeds} for one in (rung, before))
    found = _difference(new, old)
    if max(abs(new[seed] - old[seed]) for seed in seeds) < SAME:
        yield f"its gradient is estimated as before, with a noise scale of {_steps(rung)}"
        return
    ratio = f"{np.exp(found.difference):.2g} times the one before"
    if found.low is None or found.high is None:
        yield f"its gradient's noise scale is {ratio}, in one seed"
        return
    between = f"({INTERVAL} {np.exp(found.low):.2g} … {np.exp(found.high):.2g})"
    if found.verdict == "not distinguishable":
        yield f"its gradient's noise scale is not distinguishable from the one before, {ratio} {between}"
    else:
        yield f"its gradient's noise scale is {ratio} {between}"


def _difference(new: Mapping[int, float], old: Mapping[int, float]) -> PairedDifference:
    return paired_difference(np.array([*new.values()]), np.array([*old.values()]), CONFIDENCE)


def _broken(rung: Measured) -> Iterator[str]:
    if rung.failed:
        them = "counts as far as it" if len(rung.failed) == 1 else "count as far as they"
        yield f"{len(rung.failed)} of its runs broke off and {them} went"


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _mean(values: Mapping[int, float]) -> str:
    return number(_short(float(np.mean([*values.values()]))))


def _steps(rung: Measured) -> str:
    return f"{number(float(f'{np.exp(np.mean(np.log([*rung.noise.values()]))):.2g}'))} steps"


def _nats(rung: Measured) -> str:
    if not rung.moved:
        return "an unknown distance"
    return f"{number(float(f'{np.median([*rung.moved.values()]):.2g}'))} nats"
