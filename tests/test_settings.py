"""Settings: one meaning from Python, text and TOML; refusals in one line with the value and the fix; schedules."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from advantage.algorithms.ppo import Settings
from advantage.errors import UserError
from advantage.settings import (
    PEERS_WORDS,
    Common,
    Schedule,
    at,
    describe,
    parse_pairs,
    plain_value,
    resolve,
    scheduled,
    setting,
    to_dict,
    to_toml,
)


@dataclass(frozen=True)
class Kind:
    """A setting of every kind."""

    whole: int = setting(3, "a count", unit="steps", low=1)
    real: float = setting(0.5, "a share", low=0, high=1)
    positive: float = setting(0.1, "a size", above=0)
    rate: Schedule = setting("lin_1e-3", "a rate", low=0)
    flag: bool = setting(False, "whether")
    word: str = setting("one", "which", choices=("one", "two"))
    sizes: tuple[int, ...] = setting((64, 64), "hidden layers", unit="units", low=1)
    perhaps: int | None = setting(None, "none for all", low=1)
    bound: float | None = setting(None, "none for none", above=0)
    table: dict[str, Any] = setting({}, "arguments")


def refusal(**given: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(Kind, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("whole", 7, 7),
        ("whole", "7", 7),
        ("whole", "1e3", 1000),
        ("whole", "1_000", 1000),
        ("whole", 7.0, 7),
        ("real", "0.25", 0.25),
        ("real", ".25", 0.25),
        ("real", "1.", 1.0),
        ("real", 1, 1.0),
        ("real", "5e-1", 0.5),
        ("rate", "lin_2.5e-4", "lin_2.5e-4"),
        ("rate", "2.5e-4", 2.5e-4),
        ("rate", 0, 0.0),
        ("flag", "true", True),
        ("flag", "True", True),
        ("flag", "1", True),
        ("flag", 0, False),
        ("word", "two", "two"),
        ("sizes", "32,16", (32, 16)),
        ("sizes", "32, 16", (32, 16)),
        ("sizes", "[32, 16]", (32, 16)),
        ("sizes", [32, 16], (32, 16)),
        ("sizes", "32", (32,)),
        ("sizes", 32, (32,)),
        ("sizes", "[]", ()),
        ("perhaps", "none", None),
        ("perhaps", "None", None),
        ("perhaps", None, None),
        ("perhaps", "4", 4),
        ("bound", "none", None),
        ("bound", "4", 4.0),
        ("table", {"continuous": True}, {"continuous": True}),
        ("table", "{gravity=1.5}", {"gravity": 1.5}),
    ],
)
def test_text_python_and_toml_mean_the_same(name: str, value: Any, expected: Any) -> None:
    found = getattr(resolve(Kind, {name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("whole", "many", "whole is 'many'; it must be a whole number"),
        ("whole", 2.5, "whole is 2.5; it must be a whole number"),
        ("whole", True, "whole is True; it must be a whole number"),
        ("whole", None, "whole is None; it must be a whole number"),
        ("whole", math.inf, "whole is inf; it must be a whole number"),
        ("whole", 2**63, "whole is about 2^64; it must be below 2^63"),
        pytest.param("whole", "9" * 400, "whole is about 2^1329; it must be below 2^63", id="400 digits"),
        pytest.param("whole", "9" * 5000, "…; it must be a whole number", id="5000 digits"),
        ("sizes", (64, 10**30), "sizes is about 2^100; it must be below 2^63"),
        pytest.param("rate", "9" * 400, "rate is inf; it must be finite", id="a rate of 400 digits"),
        pytest.param("real", -(10**400), "real is -inf; it must be finite", id="a real of 400 digits"),
        ("table", "foo", "table is 'foo'; it must be names and values such as {gravity = 9.8}"),
        ("table", {1: 2}, "table is {1: 2}; it must be names and values such as {gravity = 9.8}"),
        ("whole", 0, "whole is 0; it must be at least 1"),
        ("whole", "-5", "whole is -5; it must be at least 1"),
        ("real", 1.5, "real is 1.5; it must be in 0 … 1"),
        ("real", "-0.1", "real is -0.1; it must be in 0 … 1"),
        ("real", "nan", "real is nan; it must be finite"),
        ("real", math.inf, "real is inf; it must be finite"),
        ("real", "half", "real is 'half'; it must be a number"),
        ("real", [0.5], "real is [0.5]; it must be a number"),
        ("positive", 0, "positive is 0.0; it must be above 0"),
        ("positive", -1e-9, "positive is -1e-09; it must be above 0"),
        ("rate", -1, "rate is -1.0; it must be at least 0"),
        ("rate", math.nan, "rate is nan; it must be finite"),
        ("rate", "lin_-1", "rate is lin_-1; it must be at least 0"),
        ("rate", "lin_", 'rate is \'lin_\'; it must be a number or a schedule such as "lin_2.5e-4" or "cos_2.5e-4"'),
        ("rate", "cos_-1", "rate is cos_-1; it must be at least 0"),
        ("rate", "sin_1", "rate is 'sin_1'; it must be a number or a schedule"),
        ("rate", "lin_nan", "it must be a number or a schedule"),
        ("rate", "lin_inf", "it must be a number or a schedule"),
        ("rate", "exp_1e-3", "it must be a number or a schedule"),
        ("flag", "maybe", "flag is 'maybe'; it must be true or false"),
        ("flag", 2, "flag is 2; it must be true or false"),
        ("word", "three", "word is 'three'; it must be one of one, two"),
        ("sizes", "64,x", "sizes is '64,x'; it must be whole numbers such as 64,64"),
        ("sizes", "64,0", "sizes is (64, 0); it must be at least 1"),
        ("sizes", [64.5], "it must be whole numbers such as 64,64"),
        ("perhaps", "half", "perhaps is 'half'; it must be a whole number or none"),
        ("perhaps", 0, "perhaps is 0; it must be at least 1"),
        ("bound", 0.0, "bound is 0.0; it must be above 0"),
        ("table", "x", "table is 'x'; it must be"),
    ],
)
def test_wrong_values_are_refused_with_the_fix(name: str, value: Any, text: str) -> None:
    assert text in refusal(**{name: value})


@pytest.mark.parametrize("text", ["x", 'true # "', "1\n[settings]\nwhole = 2", "'''", ""])
def test_text_that_is_no_value_never_becomes_two(text: str) -> None:
    with pytest.raises(UserError):
        resolve(Kind, {"whole": text})


# --- names ---


def test_an_unknown_name_gives_the_nearest() -> None:
    assert refusal(wholes=1) == "there is no setting 'wholes'; did you mean whole?"
    with pytest.raises(UserError, match="there is no setting 'gama'; did you mean gamma"):
        resolve(Settings, {"gama": 0.9})


def test_a_peer_s_word_gives_ours() -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    for theirs, ours in PEERS_WORDS.items():
        with pytest.raises(UserError) as caught:
            resolve(Settings, {theirs: 1})
        first = ours.split()[0].strip(",")
        told = f"{theirs} is called {ours} here"
        assert (str(caught.value) == told) == (first in known), caught.value
    with pytest.raises(UserError, match=r"^clip_coef is called eps_low and eps_high here$"):
        resolve(Settings, {"clip_coef": 0.2})


def test_no_word_of_ours_is_said_to_be_a_peer_s() -> None:
    assert not {field.name for field in dataclasses.fields(Settings)} & set(PEERS_WORDS)


def test_a_peer_s_word_for_what_this_kind_has_not_is_just_unknown() -> None:
    assert refusal(lr=1).startswith("there is no setting 'lr'; ")


# --- schedules ---


def test_a_schedule_is_a_line_down_to_0() -> None:
    assert [scheduled("lin_0.5", remaining) for remaining in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
    assert scheduled("lin_0.5", -0.2) == 0.0
    assert [scheduled(0.5, remaining) for remaining in (1.0, 0.0)] == [0.5, 0.5]


def test_a_schedule_is_half_a_cosine_down_to_0() -> None:
    assert [scheduled("cos_0.5", remaining) for remaining in (1.0, 0.5, 0.0, -0.2)] == pytest.approx([0.5, 0.25, 0, 0])
    assert scheduled("cos_1", 0.75) == pytest.approx(0.5 + 0.25 * 2**0.5)


def test_at_reads_schedules_and_nothing_else() -> None:
    given = Kind(rate="lin_1e-3", word="one")
    now = at(given, 0.25)
    assert now.rate == pytest.approx(2.5e-4)
    assert dataclasses.replace(now, rate=given.rate) == given
    constant = Kind(rate=1e-3)
    assert at(constant, 0.25) is constant


# --- TOML ---

few = hypothesis_settings(max_examples=50)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
PLAIN: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    TEXTS,
    st.lists(st.integers(0, 9), max_size=3),
)


@few
@given(
    st.fixed_dictionaries({"seed": st.integers(0, 2**63 - 1), "target": TEXTS}),
    st.dictionaries(TEXTS, PLAIN, max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_toml_comes_back_as_it_went(head: dict[str, Any], table: dict[str, Any], real: float) -> None:
    document = {**head, "settings": {"real": real, "flag": True, "sizes": [1, 2], "env_args": table}}
    assert tomllib.loads(to_toml(document)) == document


@few
@given(
    st.builds(
        Kind,
        whole=st.integers(1, 10**9),
        real=st.floats(0, 1),
        rate=st.one_of(st.floats(0, 1e3), st.floats(0, 1).map(lambda x: f"lin_{x}")),
        flag=st.booleans(),
        word=st.sampled_from(["one", "two"]),
        sizes=st.lists(st.integers(1, 512), max_size=3).map(tuple),
        perhaps=st.one_of(st.none(), st.integers(1, 9)),
        table=st.dictionaries(TEXTS, PLAIN, max_size=2),
    )
)
def test_settings_survive_their_file(settings: Kind) -> None:
    assert resolve(Kind, tomllib.loads(to_toml(to_dict(settings)))) == settings


def test_every_default_of_ppo_is_legal_and_survives() -> None:
    assert resolve(Settings, tomllib.loads(to_toml(to_dict(Settings())))) == Settings()
    assert resolve(Settings, {}) == Settings()


def test_defaults_that_are_mappings_are_not_shared() -> None:
    first, second = Kind(), Kind()
    first.table["x"] = 1
    assert second.table == {} == Kind().table


# --- the command line's texts ---


def test_pairs() -> None:
    assert parse_pairs(["a=1", " b = x=y "], "--set") == {"a": "1", "b": "x=y"}
    for wrong in ("a", "=1", " =1"):
        with pytest.raises(UserError, match="--env got .*; write NAME=VALUE"):
            parse_pairs([wrong], "--env")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("False", False),
        ("3", 3),
        ("1e-3", 1e-3),
        ("8x8", "8x8"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        (7, 7),
    ],
)
def test_plain_values(text: Any, value: Any) -> None:
    assert plain_value(text) == value
    assert type(plain_value(text)) is type(value)


# --- help ---


def test_describe_says_name_default_meaning_unit_and_range() -> None:
    assert describe(Kind) == [
        ("whole", "3", "a count [steps, ≥ 1]"),
        ("real", "0.5", "a share [0 … 1]"),
        ("positive", "0.1", "a size [> 0]"),
        ("rate", '"lin_1e-3"', "a rate [≥ 0]"),
        ("flag", "false", "whether"),
        ("word", '"one"', "which [one | two]"),
        ("sizes", "[64, 64]", "hidden layers [units, ≥ 1]"),
        ("perhaps", '"none"', "none for all [≥ 1]"),
        ("bound", '"none"', "none for none [> 0]"),
        ("table", "{}", "arguments"),
    ]


@pytest.mark.parametrize("kind", [Common, Settings])
def test_every_setting_says_what_it_means(kind: type) -> None:
    rows = describe(kind)
    assert [name for name, _, _ in rows] == [field.name for field in dataclasses.fields(kind)]
    for field in dataclasses.fields(kind):
        about: Mapping[str, Any] = field.metadata
        assert about["meaning"], field.name


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gamma": 1.5}, "gamma is 1.5; it must be in 0 … 1"),
        ({"learning_rate": "nan"}, "learning_rate is nan; it must be finite"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001; it must be at least 0"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"gae_lambda": 1.01}, "gae_lambda is 1.01; it must be in 0 … 1"),
        ({"num_envs": 0}, "num_envs is 0; it must be at least 1"),
        ({"activation": "gelu"}, "activation is 'gelu'; it must be one of tanh, relu, silu"),
        (
            {"num_envs": 2, "num_steps": 8, "minibatch_size": 17},
            "minibatch_size is 17; a rollout has num_envs × num_steps = 16",
        ),
        ({"numerics": "cleanrl"}, "numerics is 'cleanrl'; it must be one of advantage, sb3"),
    ],
)
def test_what_ppo_refuses_before_step_0(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(Settings, given)
    assert text in str(caught.value)
