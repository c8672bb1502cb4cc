"""What the tripwires saw of a run, since when, what it means and what to try: the answer of `advantage doctor RUN`.

The checks are pure, so the doctor asks them again about every recorded update and learns when each began to see
something and when it ceased. Recorded events add what no scalar tells: a crash, a number that broke inside an update.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from advantage.runs.kinds import KINDS, Kind
from advantage.runs.reader import RunReader
from advantage.views.columns import kind_of_run
from advantage.watch import HISTORY, TRIPWIRES, Finding, inspect

CLOCKS = frozenset({"update", "env_steps", "tokens", "wall_time", "attempt"})
GRAVITY = ("stop", "warn", "note")
TABLE = {tripwire.name: tripwire for tripwire in TRIPWIRES}
WIDTH = 100


@dataclass(frozen=True)
class Symptom:
    """What one tripwire, or another source of events, saw over a run.

    Attributes:
        evidence: its newest finding, numbers included.
        since, since_steps: the first update (from 1) at which it saw something, and the steps done by then.
        until, until_steps: the last such update.
        updates: at how many updates in all.
        active: whether it still saw something when the run was last heard of.
        meaning, advice: empty where the source is no tripwire.
    """

    tripwire: str
    level: str
    evidence: str
    since: int
    since_steps: int
    until: int
    until_steps: int
    updates: int
    active: bool
    meaning: str
    advice: str


@dataclass(frozen=True)
class Performance:
    """A measure of performance: where it stood when the run was last heard of, and its best."""

    name: str
    last: float
    best: float
    best_update: int


@dataclass(frozen=True)
class Diagnosis:
    """How a run stands or ended, how well it performed, and what was seen, gravest first.

    Attributes:
        kind: of the run, a name of `KINDS`.
        state: new, running, finished, stopped, failed or killed; `error` says why, empty where nothing went wrong.
        update, steps: how far it came.
        failed: whether it failed or a tripwire stopped it.
    """

    run: str
    kind: str
    state: str
    error: str
    update: int
    steps: int
    failed: bool
    performance: tuple[Performance, ...]
    symptoms: tuple[Symptom, ...]
    reminder: str


@dataclass(frozen=True)
class _Record:
    """The recorded updates: their numbers (from 1), the steps done by each, the scalars of each."""

    updates: list[int]
    steps: list[int]
    rows: list[dict[str, float]]


def diagnose(run_dir: str | Path) -> Diagnosis:
    """Read a run, finished or not, and ask every tripwire about each of its updates.

    Raises:
        UserError: not a run, or from a newer format.
    """
    reader = RunReader(run_dir)
    status, metrics, events = reader.status(), reader.metrics(), reader.events()
    record, kind = _record(metrics), kind_of_run(reader, metrics)
    symptoms = _symptoms(record, events, kind)
    return Diagnosis(
        run=str(run_dir),
        kind=kind.name,
        state=status["state"],
        error=status.get("error") or "",
        update=record.updates[-1] if record.updates else 0,
        steps=record.steps[-1] if record.steps else 0,
        failed=status["state"] == "failed" or any(symptom.level == "stop" for symptom in symptoms),
        performance=tuple(_performance(record, kind)),
        symptoms=tuple(symptoms),
        reminder=kind.reminder,
    )


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as mappings, sequences, texts and numbers, for the one JSON encoder."""
    return asdict(diagnosis)


def render(diagnosis: Diagnosis) -> str:
    """The diagnosis as text for a terminal."""
    steps = f" ({diagnosis.steps:,} steps)" if diagnosis.kind == "control" else ""
    reached = f"{diagnosis.run}: {diagnosis.state} after {diagnosis.update:,} updates{steps}."
    blocks = [_printable(reached)]
    if diagnosis.error:
        blocks[0] += "\n" + _paragraph("why", diagnosis.error)
    measured = [
        f"{measure.name} {measure.last:.4g}, at its best {measure.best:.4g} (update {measure.best_update:,})."
        for measure in diagnosis.performance
    ]
    blocks.append("\n".join([textwrap.fill(diagnosis.reminder, WIDTH), *measured]))
    blocks += [_render_symptom(symptom, KINDS[diagnosis.kind]) for symptom in diagnosis.symptoms]
    if not any(symptom.tripwire in TABLE for symptom in diagnosis.symptoms):
        blocks.append("No tripwire saw anything.")
    return "\n\n".join(blocks)


def _record(columns: Mapping[str, Any]) -> _Record:
    """The table of metrics, a row an update. NaN stands for "not written" there; a written one is in the events."""
    lists: dict[str, list[float]] = {name: column.tolist() for name, column in columns.items()}
    scalars = {name: column for name, column in lists.items() if name not in CLOCKS}
    updates = [int(update) for update in lists["update"]]
    # Language counts its updates where control counts steps of the environment.
    steps = [update if isnan(step) else int(step) for update, step in zip(updates, lists["env_steps"], strict=True)]
    rows = [{name: column[i] for name, column in scalars.items() if not isnan(column[i])} for i in range(len(updates))]
    return _Record(updates, steps, rows)


def _symptoms(record: _Record, events: Iterable[Mapping[str, Any]], kind: Kind) -> list[Symptom]:
    """One a source, from its findings at every update and from what was recorded besides, gravest first."""
    seen: dict[str, dict[int, Finding]] = {}
    for i, update in enumerate(record.updates):
        for finding in inspect(record.rows[max(0, i + 1 - HISTORY) : i + 1]):
            seen.setdefault(finding.tripwire, {})[update] = finding
    for event in events:
        finding = Finding(event["tripwire"], event["level"], event["text"])
        seen.setdefault(finding.tripwire, {}).setdefault(event["update"], finding)
    symptoms = [_symptom(found, record, kind) for found in seen.values()]
    return sorted(symptoms, key=lambda symptom: (GRAVITY.index(symptom.level), not symptom.active, symptom.since))


def _symptom(found: Mapping[int, Finding], record: _Record, kind: Kind) -> Symptom:
    """The findings of one source, by update."""
    since, until = min(found), max(found)
    steps = {0: 0, **dict(zip(record.updates, record.steps, strict=True))}
    last = max(steps)
    newest = found[until]
    tripwire = TABLE.get(newest.tripwire)
    return Symptom(
        tripwire=newest.tripwire,
        level=newest.level,
        evidence=newest.text,
        since=since,
        # An update that broke off has no row of its own: it began where the last one ended.
        since_steps=steps.get(since, steps[last]),
        until=until,
        until_steps=steps.get(until, steps[last]),
        updates=len(found),
        active=until >= last,
        meaning=tripwire.meaning if tripwire else "",
        advice=tripwire.advice_in(kind.target) if tripwire else "",
    )


def _performance(record: _Record, kind: Kind) -> Iterator[Performance]:
    """The measures that the run has."""
    for measure in (kind.evaluation, *kind.measures):
        name, sign = measure.name, -1.0 if measure.lower else 1.0
        found = [(row[name], update) for update, row in zip(record.updates, record.rows, strict=True) if name in row]
        if found:
            best, update = max(found, key=lambda pair: sign * pair[0])
            yield Performance(name, found[-1][0], best, update)


def when(kind: Kind, update: int, steps: int) -> str:
    """An update in words; with the steps done by it, where it is not what the run counts."""
    return f"update {update:,} (step {steps:,})" if kind.name == "control" else f"update {update:,}"


def _render_symptom(symptom: Symptom, kind: Kind) -> str:
    begun = when(kind, symptom.since, symptom.since_steps)
    ended = when(kind, symptom.until, symptom.until_steps)
    if symptom.updates == 1:
        lasted = f"at {begun}"
    elif symptom.active:
        lasted = f"since {begun}, still there at {ended}, at {symptom.updates:,} updates"
    else:
        lasted = f"between {begun} and {ended}, at {symptom.updates:,} updates, not since"
    lines = [_printable(f"{symptom.level}  {symptom.tripwire}, {lasted}")]
    lines += [
        _paragraph(word, text)
        for word, text in (("saw", symptom.evidence), ("means", symptom.meaning), ("try", symptom.advice))
        if text
    ]
    return "\n".join(lines)


def _paragraph(word: str, text: str) -> str:
    return textwrap.fill(_printable(text), WIDTH, initial_indent=f"  {word:<7}", subsequent_indent=" " * 9)


def _printable(text: str) -> str:
    """Names and error messages come from others: no control sequence of theirs reaches the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
