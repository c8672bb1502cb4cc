"""A sentence a rung, from its numbers alone: what it did to the return, and what changed with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from advantage.views.contrasts import signed
from advantage.views.html import number
from advantage.views.statistics import paired_difference

CONFIDENCE = 0.95
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"


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
    parts = [
        f"{rung.label} ends at a mean return of {number(_mean(rung.returns))}",
        *_reaching(rung, threshold),
        *(f"its gradient's noise scale is {_steps(_geometric(rung.noise))}" for _ in [0] if rung.noise),
        *(f"an update moves the policy by {_nats(rung)}" for _ in [0] if rung.moved),
        *_broken(rung),
    ]
    return "; ".join(parts) + "."


def sentence(rung: Measured, before: Measured, threshold: float | None) -> str:
    """What a rung changed, beside the one before it, on the seeds of both."""
    parts = [
        _verdict(rung, before),
        *_reaching(rung, threshold, before),
        *_noise(rung, before),
        *(f"an update moves the policy by {_nats(rung)} (before: {_nats(before)})" for _ in [0] if rung.moved),
        *_broken(rung),
    ]
    return "; ".join(parts) + "."


def _verdict(rung: Measured, before: Measured) -> str:
    seeds = [seed for seed in rung.returns if seed in before.returns]
    if not seeds:
        return f"{rung.label} cannot be set beside {before.label}: no seed has a return of both"
    new, old = (np.array([one.returns[seed] for seed in seeds]) for one in (rung, before))
    found = paired_difference(new, old, CONFIDENCE)
    told = f"mean return {number(float(new.mean()))} against {number(float(old.mean()))}"
    if found.low is None or found.high is None:
        return f"{rung.label} against {before.label}: {told} of one seed, which decides nothing"
    difference = f"a difference of {signed(found.difference)} ({INTERVAL} {signed(found.low)} … {signed(found.high)})"
    relation = "not distinguishable from" if found.verdict == "not distinguishable" else f"{found.verdict} than"
    return f"{rung.label} is {relation} {before.label}: {told}, {difference}"


def _reaching(rung: Measured, threshold: float | None, before: Measured | None = None) -> Iterator[str]:
    """How many seeds came how soon to the threshold."""
    if threshold is None or not rung.reached:
        return
    words = f"a return of {number(threshold)} is reached by {_share(rung)}"
    yield words if before is None else f"{words} (before: by {_share(before)})"


def _share(rung: Measured) -> str:
    steps = [value for value in rung.reached.values() if value is not None]
    count = f"{len(steps) or 'none'} of {len(rung.reached)} seeds"
    return f"{count}, after {number(float(np.median(steps)))} steps in the median" if steps else count


def _noise(rung: Measured, before: Measured) -> Iterator[str]:
    """The ratio of the noise scales: the geometric mean over seeds, by Student's interval of its logarithm."""
    seeds = [seed for seed in rung.noise if seed in before.noise]
    if not seeds:
        if rung.noise or before.noise:
            yield "its gradient's noise could not be set beside the one before: no gradient showed through it"
        return
    new, old = (np.log([one.noise[seed] for seed in seeds]) for one in (rung, before))
    if np.allclose(new, old, rtol=0.0, atol=1e-4):  # what rounding leaves of the same estimate
        yield f"its gradient's noise scale is the one before, {_steps(_geometric(rung.noise))}"
        return
    found = paired_difference(new, old, CONFIDENCE)
    ratio = f"{np.exp(found.difference):.2g} times the one before"
    if found.low is None or found.high is None:
        yield f"its gradient's noise scale is {ratio}, in one seed"
        return
    between = f"({INTERVAL} {np.exp(found.low):.2g} … {np.exp(found.high):.2g})"
    if found.verdict == "not distinguishable":
        yield f"its gradient's noise scale is not distinguishable from the one before: {ratio} {between}"
    else:
        yield f"its gradient's noise scale is {ratio} {between}"


def _broken(rung: Measured) -> Iterator[str]:
    if rung.failed:
        them = "counts as far as it" if len(rung.failed) == 1 else "count as far as they"
        yield f"{len(rung.failed)} of its runs broke off and {them} went"


def _mean(values: Mapping[int, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None


def _geometric(values: Mapping[int, float]) -> float:
    return float(np.exp(np.mean(np.log(list(values.values())))))


def _steps(value: float) -> str:
    return f"{number(float(f'{value:.2g}'))} steps"


def _nats(rung: Measured) -> str:
    if not rung.moved:
        return "unknown"
    return f"{float(np.median(list(rung.moved.values()))):.2g} nats"
