"""report.html: what a run did, on one page that needs nothing else. Every number is read from the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advantage.algorithms import ALGORITHMS, module
from advantage.errors import UserError
from advantage.planning import recorded_settings
from advantage.runs import durable
from advantage.runs.kinds import Kind
from advantage.runs.reader import RunReader
from advantage.settings import describe, to_toml
from advantage.views import control_report, language_report
from advantage.views.diagnostics import diagnostics
from advantage.views.doctor import Symptom, when
from advantage.views.facts import Facts, Tile, lasting
from advantage.views.html import Html, element, number, page, section, table, text


def write_report(run_dir: str | Path) -> Path:
    """Write (again) the report of a run, finished or not.

    Returns:
        The path of report.html in the run directory.

    Raises:
        UserError: not a run, from a newer format, or the directory cannot be written.
    """
    reader = RunReader(run_dir)
    path = reader.path / "report.html"
    document = render(reader)
    try:
        durable.replace(path, lambda draft: draft.write_text(document, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def render(reader: RunReader) -> str:
    """The page as text."""
    facts, config = Facts.of(reader), reader.config
    if config["algorithm"] in ALGORITHMS:
        recorded_settings(reader)  # refuses what a pen has spoilt, in one line
    world: Any = language_report if facts.columns.kind.target == "model" else control_report
    on = " ".join(filter(None, [config["target"], config["settings"].get("task")]))
    name = f"{config['algorithm']} on {on}, seed {config['seed']}"
    state = facts.status["state"]
    return page(
        name,
        element("p", text("Advantage · report of a run"), class_="kicker"),
        element("h1", text(name), Html(" "), element("span", text(state), class_=f"pill {state}")),
        element("p", text(f"{world.headline(facts)}. {_progress(facts)}"), class_="headline"),
        _tiles(facts, world.tiles(facts)),
        section("Learning curve", *world.curves(facts)),
        *world.evaluations(facts),
        section("Tripwires and events", *_tripwires(facts)),
        *world.evidence(facts),
        section("Inside the updates", *diagnostics(facts.columns, reader.keys())),
        section("Settings", *_settings(facts)),
        section("Attempts and versions", *_attempts(reader, facts.status)),
    )


def _tiles(facts: Facts, tiles: Sequence[Tile]) -> Html:
    """The world's own numbers, and those that every run has."""
    speed = facts.steps / facts.seconds if facts.seconds else None
    grave = sum(symptom.level in ("warn", "stop") and bool(symptom.meaning) for symptom in facts.symptoms)
    pace = "–" if speed is None else number(round(speed) if speed >= 10 else float(f"{speed:.2g}"))
    shown = [*tiles, ("time", lasting(facts.seconds), f"{pace} a second"), ("warnings", str(grave), "of the tripwires")]
    parts = [
        element("div", element("dt", text(word)), element("dd", text(value), element("small", text(about))))
        for word, value, about in shown
    ]
    return element("dl", *parts, class_="tiles")


def _progress(facts: Facts) -> str:
    """How far the run came and how it stands."""
    status = facts.status
    state, total = status["state"], status.get("total")
    if not facts.updates:
        return "The run has completed no update."
    budget = f" of {number(total)}" if total and facts.steps < total else ""
    ending = {
        "finished": "and finished",
        "running": "and is running",
        "killed": "and was killed: advantage resume continues it",
        "stopped": "and was stopped: advantage resume continues it",
        "failed": f"and failed: {status.get('error') or 'no reason was recorded'}",
    }.get(state, f"and is {state}")
    return f"It trained for {number(facts.steps)}{budget} {facts.columns.unit} in {lasting(facts.seconds)} {ending}."


def _tripwires(facts: Facts) -> Iterator[Html]:
    if not any(symptom.meaning for symptom in facts.symptoms):
        yield element("p", text("No tripwire fired."), class_="soft")
    yield element("ul", *(_symptom(symptom, facts.columns.kind) for symptom in facts.symptoms))


def _symptom(symptom: Symptom, kind: Kind) -> Html:
    lasted = when(kind, symptom.since, symptom.since_steps)
    if symptom.updates > 1:
        lasted = f"since {lasted}, at {symptom.updates:,} updates{'' if symptom.active else ', not any more'}"
    told = " ".join(part for part in (symptom.meaning, symptom.advice) if part)
    return element(
        "li",
        element("span", text(symptom.level), class_=f"pill {symptom.level}"),
        text(f" {symptom.tripwire}, {lasted}: {symptom.evidence}"),
        element("small", text(told)) if told else Html(""),
    )


def _settings(facts: Facts) -> Iterator[Html]:
    """What differs from the defaults; the rest folded away."""
    config, total = facts.reader.config, facts.reader.total()
    settings = dict(config["settings"])
    if (began := settings.get("steps")) not in (None, total):  # a resume made them more
        settings["steps"] = total
        steps = f"{facts.columns.kind.step}s"
        yield element("p", text(f"It began with {number(began)} {steps}; a resume made them {number(total)}."))
    known = {}
    if config["algorithm"] in ALGORITHMS:
        known = {name: (default, meaning) for name, default, meaning in describe(module(config["algorithm"]).Settings)}
    changed: list[list[Html]] = []
    usual: list[list[Html]] = []
    for name, value in settings.items():
        default, meaning = known.get(name, ("", ""))
        shown = _toml(value)
        row = [element("code", text(name)), element("code", text(shown)), element("code", text(default)), text(meaning)]
        (usual if shown == default else changed).append(row)
    heads = ["setting", "value", "default", "meaning"]
    if changed:
        yield table(heads, changed)
    if usual:
        said = element("summary", text(f"{len(usual)} settings at their default"))
        yield element("details", said, table(heads[:2] + heads[3:], [row[:2] + row[3:] for row in usual]))


def _toml(value: Any) -> str:
    """A setting as config.toml writes it."""
    return to_toml({"in": {"value": value}}).rpartition("value = ")[2].strip()


def _attempts(reader: RunReader, status: Mapping[str, Any]) -> Iterator[Html]:
    attempts = reader.attempts()
    rows = [
        [text(str(a["attempt"])), text(_utc(a["started"])), text(f"update {a['from_update']:,}"), text(a["host"])]
        for a in attempts
    ]
    yield table(["attempt", "started (UTC)", "went on from", "host"], rows)
    if "heartbeat" in status:
        yield element("p", text(f"Last sign of life: {_utc(status['heartbeat'])} UTC."), class_="soft")
    versions = attempts[-1]["versions"] if attempts else reader.config.get("versions", {})
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield element("p", text(f"Versions: {said}."), class_="soft")
    yield element("p", text("Command: "), element("code", text(reader.config.get("command", ""))), class_="soft")


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
