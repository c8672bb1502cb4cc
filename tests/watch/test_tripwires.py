"""Each tripwire fires on its sick history, stays silent on the healthy ones beside it, and is a pure function."""

from __future__ import annotations

import copy
from collections import deque
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.watch import TRIPWIRES, inspect
from tests.watch.histories import CURVES, FIRING, HEALTHY_ROW, SILENT, Row, steady

NAMES = [tripwire.name for tripwire in TRIPWIRES]
FINDINGS = [(name, history) for name, histories in FIRING.items() for history in histories]
CALM = [(name, history) for name, histories in SILENT.items() for history in histories]


def found(history: list[Row]) -> list[str]:
    return [finding.tripwire for finding in inspect(history)]


def test_every_tripwire_has_a_history_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    assert set(NAMES) == set(FIRING) == set(SILENT)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("tripwire", TRIPWIRES, ids=NAMES)
def test_a_row_of_the_table_is_complete(tripwire) -> None:
    assert tripwire.level in ("note", "warn", "stop")
    assert tripwire.meaning and tripwire.advice
    for text in filter(None, (tripwire.meaning, tripwire.advice, tripwire.advice_to_model)):
        assert len(text) > 60 and text.endswith(".") and "  " not in text


@pytest.mark.parametrize(("name", "history"), FINDINGS, ids=[name for name, _ in FINDINGS])
def test_fires_alone_and_with_its_level(name: str, history: list[Row]) -> None:
    (finding,) = inspect(history)
    assert finding.tripwire == name
    assert finding.level == next(tripwire.level for tripwire in TRIPWIRES if tripwire.name == name)
    assert finding.text and "\n" not in finding.text


@pytest.mark.parametrize(("name", "history"), CALM, ids=[name for name, _ in CALM])
def test_silent_beside_it(name: str, history: list[Row]) -> None:
    for update in range(1, len(history) + 1):
        assert name not in found(history[:update])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("curve", CURVES)
def test_a_healthy_curve_gives_no_warning_at_any_update(curve: str, seed: int) -> None:
    rows = CURVES[curve](seed)
    for update in range(1, len(rows) + 1):
        assert [finding for finding in inspect(rows[:update]) if finding.level != "note"] == []


def test_non_finite_names_every_quantity() -> None:
    (finding,) = inspect(steady(1, {"train/loss": nan, "rollout/reward_mean": -inf}))
    assert "train/loss is nan" in finding.text and "rollout/reward_mean is -inf" in finding.text


def test_evidence_gives_the_numbers() -> None:
    (finding,) = inspect(FIRING["falling_returns"][0])
    assert "60" in finding.text and "500" in finding.text
    (finding,) = inspect(FIRING["first_ratio"][0])
    assert "2e-05" in finding.text


def test_silent_on_nothing() -> None:
    assert inspect([]) == []
    assert inspect([{}]) == inspect([{}] * 600) == []


@pytest.mark.parametrize("key", HEALTHY_ROW)
def test_silent_on_a_single_key_and_without_any_one(key: str) -> None:
    assert inspect([{key: HEALTHY_ROW[key]}] * 100) == []
    assert inspect([{name: x for name, x in HEALTHY_ROW.items() if name != key}] * 100) == []


def test_one_healthy_row_is_silent() -> None:
    assert inspect(steady(1)) == []


@pytest.mark.parametrize("name", NAMES)
def test_evidence_missing_from_the_newest_update_silences(name: str) -> None:
    for history in FIRING[name]:
        assert name not in found([*history, {}])


KEYS = [*HEALTHY_ROW, "rollout/action_saturation", "eval/mean_reward", "reward", "kl", "rewards/format/mean"]
KEYS += ["gold", "num_tokens", "completions/tokens", "rewards/a/share", "rewards/b/share", "examples/template"]
ROWS = st.dictionaries(
    st.sampled_from(KEYS), st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ROWS, max_size=8), st.integers(1, 12))
def test_pure_and_total(rows: list[Row], repeats: int) -> None:
    history = rows * repeats
    before = copy.deepcopy(history)
    first = inspect(history)
    assert repr(history) == repr(before)
    assert inspect(history) == first == inspect(deque(history, maxlen=512))
