"""report.html: what a run did, on one page that needs nothing else. Every number is read from the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from advantage.algorithms import ALGORITHMS, module
from advantage.api import recorded_settings
from advantage.errors import UserError
from advantage.runs import durable
from advantage.runs.reader import RunReader
from advantage.settings import describe, to_toml
from advantage.views.calibration import Calibration, calibration
from advantage.views.chart import Layer, chart
from advantage.views.columns import Columns, read_columns
from advantage.views.doctor import Symptom, diagnose
from advantage.views.html import Html, element, number, page, section, table, text

SPECKS = 1500  # single episodes or steps drawn at most, evenly picked: a page stays small however long the run
ROWS = 12  # evaluations listed at most; all are drawn
SCORES = {"rollout/ep_rew_mean": "training, mean of the last 100 episodes", "reward": "training, mean reward"}

DIAGNOSTICS: dict[str, dict[str, str]] = {  # title: metrics drawn together, each with its name in the legend
    "KL of an update": {"train/approx_kl": ""},
    "Clip fraction": {"train/clip_fraction": ""},
    "Entropy": {"train/entropy": ""},
    "Explained variance": {"train/explained_variance": ""},
    "Value loss": {"train/value_loss": ""},
    "Policy loss": {"train/policy_gradient_loss": ""},
    "Whole loss": {"train/loss": ""},
    "Gradient norm before clipping": {"train/gradient_norm": "mean", "train/gradient_norm_max": "largest"},
    "Probability ratio": {"train/ratio_min": "least", "train/ratio_max": "greatest"},
    "First ratio's error": {"train/first_ratio_error": ""},
    "Advantage before normalisation": {"train/advantage_mean": "mean", "train/advantage_std": "standard deviation"},
    "Advantage skewness": {"train/advantage_skew": ""},
    "Value and return": {"train/value_mean": "value", "train/return_mean": "return", "train/value_error": "error"},
    "Episode length": {"rollout/ep_len_mean": "training", "eval/mean_ep_length": "held-out"},
    "Reward of a step": {"rollout/reward_mean": "mean", "rollout/reward_std": "standard deviation"},
    "Learning rate": {"train/learning_rate": ""},
    "Optimiser steps of an update": {"train/minibatches": ""},
    "Stopped early": {"train/stopped_early": ""},
    "Seconds of an update": {"time/collect": "collect", "time/update": "update"},
    "Steps per second": {"time/fps": ""},
}
ELSEWHERE = {"time/total_timesteps", "time/evaluate", "eval/mean_reward", "eval/std_reward", *SCORES}


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
    columns, status, episodes = read_columns(reader), reader.status(), reader.episodes()
    config = reader.config
    if config["algorithm"] in ALGORITHMS:
        recorded_settings(reader)  # refuses what a pen has spoilt, in one line
    name = f"{config['algorithm']} on {config['target']}, seed {config['seed']}"
    symptoms = diagnose(reader.path).symptoms
    return page(
        name,
        element("p", text("Advantage · report of a run"), class_="kicker"),
        element("h1", text(name), Html(" "), element("span", text(status["state"]), class_=f"pill {status['state']}")),
        element("p", text(headline(columns, status, episodes)), class_="headline"),
        _tiles(columns, status, episodes, symptoms),
        section("Learning curve", _learning_curve(columns, episodes)),
        section("Held-out evaluation", *_evaluations(columns)),
        section("Tripwires and events", *_tripwires(symptoms)),
        section("Inside the updates", *_diagnostics(columns, reader.keys())),
        section("The critic's calibration", *_calibration(reader)),
        section("Settings", *_settings(config, reader.total())),
        section("Attempts and versions", *_attempts(reader, status)),
    )


def headline(columns: Columns, status: Mapping[str, Any], episodes: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """The result in a sentence or two, from the numbers alone."""
    held_out, spread = columns.last("eval/mean_reward"), columns.last("eval/std_reward")
    returns = episodes["return"].astype(np.float64)
    if held_out is not None:
        around = "" if spread is None else f" ± {number(spread)}"
        sentence = f"The policy returns {number(held_out)}{around} on held-out episodes (mean ± standard deviation)"
        best = float(columns.finite("eval/mean_reward").max())
        if best > held_out:
            sentence += f", {number(best)} at its best"
    elif len(returns):
        last = returns[-100:]
        sentence = f"The last {len(last)} training episodes returned {number(float(last.mean()))} on average"
        if len(returns) >= 200:
            sentence += f", the first 100 {number(float(returns[:100].mean()))}"
    elif (score := columns.last("reward")) is not None:
        sentence = f"The last update's mean reward is {number(score)}"
    else:
        sentence = "No episode has finished and nothing was evaluated yet"
    return f"{sentence}. {_progress(columns, status)}"


def _progress(columns: Columns, status: Mapping[str, Any]) -> str:
    """How far the run came and how it stands."""
    state, total = status["state"], status.get("total")
    if len(columns.steps) == 0:
        return "The run has completed no update."
    steps, seconds = columns.steps[-1], float(columns.table["wall_time"][-1])
    budget = f" of {number(total)}" if total and steps < total else ""
    ending = {
        "finished": "and finished",
        "running": "and is running",
        "killed": "and was killed: advantage resume continues it",
        "stopped": "and was stopped: advantage resume continues it",
        "failed": f"and failed: {status.get('error') or 'no reason was recorded'}",
    }.get(state, f"and is {state}")
    return f"It trained for {number(steps)}{budget} {columns.unit} in {_lasting(seconds)} {ending}."


def _tiles(
    columns: Columns,
    status: Mapping[str, Any],
    episodes: Mapping[str, np.ndarray[Any, Any]],
    symptoms: Sequence[Symptom],
) -> Html:
    steps = float(columns.steps[-1]) if len(columns.steps) else 0.0
    seconds = float(columns.table["wall_time"][-1]) if len(columns.steps) else 0.0
    score = next((value for name in SCORES if (value := columns.last(name)) is not None), None)
    grave = sum(symptom.level in ("warn", "stop") for symptom in symptoms)
    tiles = [
        ("held-out return", number(columns.last("eval/mean_reward")), "last evaluation"),
        ("training return", number(score), "last 100 episodes"),
        (columns.unit, number(steps), f"{number(len(columns.steps))} updates"),
        ("episodes", number(len(episodes["return"])), "finished in training"),
        ("time", _lasting(seconds), f"{number(round(steps / seconds)) if seconds else '–'} a second"),
        ("warnings", str(grave), "of the tripwires"),
    ]
    parts = [
        element("div", element("dt", text(word)), element("dd", text(shown), element("small", text(about))))
        for word, shown, about in tiles
    ]
    return element("dl", *parts, class_="tiles")


def _learning_curve(columns: Columns, episodes: Mapping[str, np.ndarray[Any, Any]]) -> Html:
    layers = []
    when, returns = episodes["update" if columns.unit == "updates" else "env_steps"], episodes["return"]
    if len(returns):
        picked = np.unique(np.linspace(0, len(returns) - 1, min(SPECKS, len(returns))).round().astype(int))
        drawn = "single episodes" if len(picked) == len(returns) else f"{len(picked):,} of {len(returns):,} episodes"
        x, y = when[picked].astype(np.float64), _finite(returns[picked].astype(np.float64))
        layers.append(Layer(drawn, x, y, colour=6, kind="specks"))
    layers += [_layer(columns, name, label, 0) for name, label in SCORES.items() if name in columns.table]
    evaluations = columns.curve("eval/mean_reward")
    if len(evaluations.steps):
        spread = np.interp(evaluations.steps, *_known(columns, "eval/std_reward"))
        label, marks = "held-out evaluation ± standard deviation", columns.marks("eval/mean_reward")
        low, high = evaluations.values - spread, evaluations.values + spread
        layers.append(Layer(label, evaluations.steps, evaluations.values, low, high, 1, "dots", marks))
    return chart("Return", layers, columns.unit, about="of an episode, undiscounted", shape="tall")


def _evaluations(columns: Columns) -> Iterator[Html]:
    curve = columns.curve("eval/mean_reward")
    if len(curve.steps) == 0:
        said = "None was made. With --eval-every N the policy is evaluated every N steps and the best one is kept."
        yield element("p", text(said), class_="soft")
        return
    finite = np.isfinite(curve.values)
    best = int(np.argmax(np.where(finite, curve.values, -np.inf)))
    rows = sorted({*range(max(0, len(curve.steps) - ROWS), len(curve.steps)), *([best] if finite.any() else [])})
    others = [columns.curve(name) for name in ("eval/std_reward", "eval/mean_ep_length")]
    cells = []
    for i in rows:
        beside = [other.values[other.steps == curve.steps[i]] for other in others]
        numbers = [curve.steps[i], curve.values[i], *(found[0] if len(found) else None for found in beside)]
        mark = "best" if finite.any() and i == best else ""
        cells.append([*(text(number(x)) for x in numbers), text(mark)])
    heads = [columns.unit, "mean return", "standard deviation", "mean length", ""]
    yield table(heads, cells, numbers=(0, 1, 2, 3), marked=[rows.index(best)] if finite.any() else [])
    if len(rows) < len(curve.steps):
        yield element("p", text(f"The last {ROWS} of {len(curve.steps):,} evaluations, and the best."), class_="soft")


def _tripwires(symptoms: Sequence[Symptom]) -> Iterator[Html]:
    if not any(symptom.meaning for symptom in symptoms):
        yield element("p", text("No tripwire fired."), class_="soft")
    yield element("ul", *(_symptom(symptom) for symptom in symptoms))


def _symptom(symptom: Symptom) -> Html:
    when = f"update {symptom.since:,} (step {symptom.since_steps:,})"
    if symptom.updates > 1:
        when = f"since {when}, at {symptom.updates:,} updates{'' if symptom.active else ', not any more'}"
    told = " ".join(part for part in (symptom.meaning, symptom.advice) if part)
    return element(
        "li",
        element("span", text(symptom.level), class_=f"pill {symptom.level}"),
        text(f" {symptom.tripwire}, {when}: {symptom.evidence}"),
        element("small", text(told)) if told else Html(""),
    )


def _diagnostics(columns: Columns, keys: Mapping[str, tuple[str, str]]) -> Iterator[Html]:
    """Every metric that is not drawn elsewhere: those that belong together first, then what else the run recorded."""
    known = {name for group in DIAGNOSTICS.values() for name in group} | ELSEWHERE
    groups = {**DIAGNOSTICS, **{name: {name: ""} for name in keys if name not in known}}
    said = "Losses and the numbers below do not measure performance; they show whether the updates are healthy."
    yield element("p", text(said), class_="soft")
    figures = []
    for title, group in groups.items():
        if present := {name: label for name, label in group.items() if name in columns.table}:
            layers = [_layer(columns, name, label, i) for i, (name, label) in enumerate(present.items())]
            unit, meaning = keys.get(next(iter(present)), ("", ""))
            about = unit if len(present) > 1 else f"{meaning} ({unit})" if unit else meaning
            figures.append(chart(title, layers, columns.unit, about=about))
    yield element("div", *figures, class_="grid")
    said = f"Across: {columns.unit}. A shade is the range of the updates that a point of a long line averages."
    yield element("p", text(said), class_="soft")


def _calibration(reader: RunReader) -> Iterator[Html]:
    try:
        found = calibration(reader)
    except UserError as error:
        yield element("p", text(f"Not known yet: {error}"), class_="soft")
        return
    if found is None:
        yield element("p", text("The run keeps no values: there is no critic to look at."), class_="soft")
        return
    picked = np.unique(np.linspace(0, len(found.values) - 1, min(SPECKS, len(found.values))).round().astype(int))
    values, returns, low, high = found.bins()
    layers = [
        Layer("single steps", found.values[picked], found.returns[picked], colour=6, kind="specks"),
        Layer("tenths by value: mean return, middle half", values, returns, low, high, 0, "dots"),
    ]
    about = "return that followed (up) against the value predicted (across); on the dashed line they agree"
    said = [element("p", text(sentence)) for sentence in calibration_sentences(found)]
    if reader.config["settings"].get("normalize_rewards"):
        said.append(element("p", text("All in units of the normalised reward."), class_="soft"))
    drawn = chart("Value and return", layers, "predicted value", about=about, shape="square")
    yield element("div", drawn, element("div", *said), class_="grid wide")


def calibration_sentences(found: Calibration) -> list[str]:
    """How well the critic foresaw the returns, in words, from the numbers alone."""
    error, explained = found.values - found.returns, found.explained_variance
    off, bias = float(np.sqrt(np.mean(error**2))), float(error.mean())
    said = [
        f"Over the {len(found.values):,} steps collected in update {found.update:,} the returns are "
        f"{number(float(found.returns.mean()))} ± {number(float(found.returns.std()))}. The critic is off by "
        f"{number(off)} (root mean square), on average {number(abs(bias))} too {'high' if bias >= 0 else 'low'}."
    ]
    if explained is not None and explained >= 0:
        said.append(f"It explains {explained:.0%} of the variance of the returns.")
    elif explained is not None:
        said.append(f"It foresees their differences worse than a constant (explained variance {number(explained)}).")
    if found.borrowed >= 0.005:
        said.append(
            "Where the rollout ends before its episode, the return goes on with the critic's own value: "
            f"{found.borrowed:.0%} of its weight, on average."
        )
    return said


def _settings(config: Mapping[str, Any], total: int | None) -> Iterator[Html]:
    """What differs from the defaults; the rest folded away. `total` is what a resume made of the steps."""
    settings = dict(config["settings"])
    if (began := settings.get("steps")) not in (None, total):
        settings["steps"] = total
        yield element("p", text(f"It began with {number(began)} steps; a resume made them {number(total)}."))
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


def _layer(columns: Columns, name: str, label: str, colour: int) -> Layer:
    curve = columns.curve(name)
    return Layer(label, curve.steps, curve.values, colour=colour, marks=columns.marks(name))


def _known(columns: Columns, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A metric's finite points, for a look-up; a single NaN where it has none."""
    curve = columns.curve(name)
    finite = np.isfinite(curve.values)
    return (curve.steps[finite], curve.values[finite]) if finite.any() else (np.zeros(1), np.full(1, np.nan))


def _finite(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(np.isfinite(values), values, np.nan)


def _lasting(seconds: float) -> str:
    """A duration in words: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
