"""Settings: one frozen flat dataclass an algorithm, each field with its meaning, unit and range; schedules; TOML out.

A value comes from Python, from a TOML file or from the command line as text; all three meet the same checks here,
before anything is built. An unknown name fails with the nearest one, or with ours where it is a peer's word for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from advantage.errors import UserError, nearest

if TYPE_CHECKING:  # the settings of a moment have plain numbers in the place of their schedules
    Schedule: TypeAlias = Any
else:
    Schedule = float | str
    """A number, or from one down to 0 at the end of the budget: "lin_2.5e-4" by a line, "cos_2.5e-4" by a cosine."""

PEERS_WORDS = {
    "actor_lr": "learning_rate",
    "alpha": "rms_alpha",
    "d_targ": "target_kl",
    "batch_size": "minibatch_size",
    "clip_coef": "eps_low and eps_high",
    "clip_range": "eps_low and eps_high",
    "clip_range_vf": "value_clip",
    "clip_vloss": "value_clip",
    "cliprange": "eps_low and eps_high",
    "entropy_coef": "ent_coef",
    "epsilon": "eps_low and eps_high",
    "kl_coef": "beta",
    "kl_target": "target_kl",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "log_interval": "record_every (in updates)",
    "lr": "learning_rate",
    "cg_max_steps": "cg_iterations",
    "line_search_max_iter": "line_search_tries",
    "line_search_shrinking_factor": "line_search_shrink",
    "n_critic_updates": "critic_epochs",
    "exploration_final_eps": "epsilon_end",
    "exploration_fraction": "epsilon_fraction",
    "exploration_initial_eps": "epsilon_start",
    "n_envs": "num_envs",
    "n_epochs": "epochs",
    "n_steps": "num_steps",
    "norm_adv": "normalize_advantages",
    "normalize_advantage": "normalize_advantages",
    "num_episodes": "episodes",
    "num_epochs": "epochs",
    "num_minibatches": "minibatch_size (in steps)",
    "epsilon_high": "eps_high",
    "max_new_tokens": "max_completion_length",
    "max_prompt_length": "max_length",
    "max_response_length": "max_completion_length",
    "max_steps": "steps",
    "max_tokens": "max_completion_length",
    "num_iterations": "epochs",
    "num_train_epochs": "steps (in updates)",
    "per_device_train_batch_size": "batch_size",
    "policy_kwargs": "network, activation and share_trunk",
    "ppo_epochs": "epochs",
    "ppo_mini_batch_size": "minibatch_size (in completions)",
    "reward": "rewards",
    "reward_funcs": "rewards",
    "rms_prop_eps": "adam_eps",
    "rollout_n": "num_generations",
    "target_network_frequency": "target_update_every",
    "target_update_interval": "target_update_every",
    "total_timesteps": "steps",
    "train_freq": "train_every",
    "train_frequency": "train_every",
    "train_batch_size": "batch_size (in prompts)",
    "update_epochs": "epochs",
    "use_rms_prop": "optimizer",
    "value_coef": "vf_coef",
    "warmup_steps": "warmup (in updates)",
    "num_warmup_steps": "warmup (in updates)",
    "warmup_ratio": "warmup (in updates)",
    "lr_scheduler_type": "learning_rate (lin_1e-5 is linear, cos_1e-5 cosine)",
    "value_loss_coef": "vf_coef",
}

T = TypeVar("T")


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that knows its meaning, unit and range (`low` ≤ value ≤ `high`, or value > `above`)."""
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high, "above": above, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Common:
    """What every run has: a budget, held-out evaluations, checkpoints."""

    steps: int = setting(1_000_000, "budget of the whole run", unit="environment steps; updates in language", low=1)
    eval_every: int = setting(0, "steps between held-out evaluations, 0 for none", unit="steps", low=0)
    eval_episodes: int = setting(20, "episodes of a held-out evaluation", low=1)
    checkpoint_every: float = setting(10.0, "time between checkpoints, 0 for every update", unit="seconds", low=0)
    keep_checkpoints: int = setting(2, "how many checkpoints stay", low=1)
    threads: int = setting(1, "torch threads; small networks are fastest with one", low=1)


def resolve(kind: type[T], given: Mapping[str, Any]) -> T:
    """Settings of a kind from the given names and values, text or not; the rest keeps its default.

    Raises:
        UserError: an unknown name, a value of the wrong type or out of range: one line with the value and the fix.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise UserError(_unknown(name, fields))
        values[name] = _checked(name, _typed(name, value, hints[name]), fields[name].metadata)
    return kind(**values)


SHAPES: dict[str, Callable[[float], float]] = {
    "lin_": lambda remaining: remaining,
    "cos_": lambda remaining: 0.5 * (1.0 - math.cos(math.pi * remaining)),
}


def at(settings: T, remaining: float) -> T:
    """The settings of this moment: every schedule replaced by its value with this share of the budget still to go."""
    texts = ((name, value) for name, value in vars(settings).items() if isinstance(value, str))
    changes = {name: scheduled(value, remaining) for name, value in texts if _is_schedule(value)}
    return dataclasses.replace(settings, **changes) if changes else settings  # type: ignore[type-var]


def scheduled(schedule: Schedule, remaining: float) -> float:
    """Value of a schedule when `remaining` in [0, 1] of the budget is left; never below 0.

    >>> scheduled("lin_0.5", 0.5)
    0.25
    """
    if isinstance(schedule, str):
        return float(schedule[4:]) * SHAPES[schedule[:4]](max(remaining, 0.0))
    return float(schedule)


def to_dict(settings: Any) -> dict[str, Any]:
    """Names and plain values, in the order of definition; None is left out (TOML has none)."""
    pairs = ((field.name, getattr(settings, field.name)) for field in dataclasses.fields(settings))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs if value is not None}


def to_toml(document: Mapping[str, Any]) -> str:
    """TOML of plain values and of tables, which come last; a mapping inside a table becomes an inline table."""
    lines = [f"{_key(name)} = {_toml(value)}" for name, value in document.items() if not isinstance(value, Mapping)]
    for name, table in document.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]"] + [f"{_key(key)} = {_toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def written(value: Any) -> str:
    """A value as `--set NAME=VALUE` takes it.

    >>> written((64, 64)), written("lin_1e-3"), written(None)
    ('[64, 64]', 'lin_1e-3', 'none')
    """
    return value if isinstance(value, str) else "none" if value is None else _toml(value)


def describe(kind: type) -> list[tuple[str, str, str]]:
    """Name, default and meaning (with unit and range) of every setting of a kind, for help texts and docs."""
    rows = []
    for field in dataclasses.fields(kind):
        about = field.metadata
        default = field.default if field.default is not dataclasses.MISSING else {}
        span = [about["unit"]] if about["unit"] else []
        if about["choices"]:
            span.append(" | ".join(about["choices"]))
        if about["above"] is not None:
            span.append(f"> {about['above']:g}")
        low, high = about["low"], about["high"]
        if low is not None:
            span.append(f"≥ {low:g}" if high is None else f"{low:g} … {high:g}")
        elif high is not None:
            span.append(f"≤ {high:g}")
        rows.append((field.name, _toml(default), about["meaning"] + (f" [{', '.join(span)}]" if span else "")))
    return rows


def parse_pairs(pairs: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE texts of the command line as a mapping."""
    parsed = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise UserError(f"{option} got {pair!r}; write NAME=VALUE")
        parsed[name.strip()] = value.strip()
    return parsed


def plain_value(text: Any) -> Any:
    """What a text from the command line says: a TOML value where it reads as one, else the text itself."""
    if not isinstance(text, str):
        return text
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:  # no TOML, or more digits than Python reads
        return {"True": True, "False": False}.get(text, _loose_number(text))
    return found["value"] if len(found) == 1 else text


def _loose_number(text: str) -> float | str:
    """Numbers that TOML does not take: .5 and 1."""
    try:
        return float(text) if "." in text else text
    except ValueError:
        return text


def _unknown(name: str, fields: Mapping[str, Any]) -> str:
    known = PEERS_WORDS.get(name)
    if known and known.split()[0].strip(",") in fields:
        return f"{name} is called {known} here"
    return f"there is no setting {name!r}; {nearest(name, fields)}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the field's type, from text or from a plain Python or TOML value."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in allowed and value in (None, "none", "None", ""):
        return None
    if str in allowed and float not in allowed:
        return str(value)
    plain = plain_value(value)
    for kind in allowed:
        converted = _as(kind, plain)
        if converted is not None:
            return converted
    if str in allowed and isinstance(value, str) and _is_schedule(value):
        return value
    raise UserError(f"{name} is {_brief(value)}; it must be {_kind_name(hint)}")


def _as(kind: Any, plain: Any) -> Any:
    if kind is bool:
        return plain if isinstance(plain, bool) else {0: False, 1: True}.get(plain) if plain in (0, 1) else None
    if isinstance(plain, bool):
        return None
    if kind is int:
        whole = isinstance(plain, int) or (isinstance(plain, float) and plain.is_integer())
        return int(plain) if whole else None
    if kind is float:
        return _real(plain) if isinstance(plain, int | float) else None
    if typing.get_origin(kind) is tuple:
        parts = plain.split(",") if isinstance(plain, str) else plain if isinstance(plain, list | tuple) else [plain]
        sizes = [_as(int, plain_value(part)) for part in parts]
        return None if None in sizes else tuple(sizes)
    if kind is dict or typing.get_origin(kind) is dict:
        named = isinstance(plain, Mapping) and all(isinstance(key, str) for key in plain)
        return dict(plain) if named else None
    return None


def _real(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number beyond any float
        return math.inf if number > 0 else -math.inf


def _is_schedule(text: Any) -> bool:
    try:
        return isinstance(text, str) and text[:4] in SHAPES and math.isfinite(float(text[4:]))
    except ValueError:
        return False


def _kind_name(hint: Any) -> str:
    if hint == Schedule:
        return 'a number or a schedule such as "lin_2.5e-4" or "cos_2.5e-4"'
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if dict in [typing.get_origin(kind) for kind in allowed]:
        return "names and values such as {gravity = 9.8}"
    return " or ".join(words.get(kind, "whole numbers such as 64,64") for kind in allowed)


def _checked(name: str, value: Any, about: Mapping[str, Any]) -> Any:
    if about["choices"] and value is not None and value not in about["choices"]:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(about['choices'])}")
    numbers = value if isinstance(value, tuple) else (scheduled(value, 1.0) if _is_schedule(value) else value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high, above = about["low"], about["high"], about["above"]
        if isinstance(number, int) and abs(number) >= 2**63:  # what TOML and the database hold
            raise UserError(f"{name} is about 2^{number.bit_length()}; it must be below 2^63")
        if not math.isfinite(number):
            raise UserError(f"{name} is {value}; it must be finite")
        if above is not None and number <= above:
            raise UserError(f"{name} is {value}; it must be above {above:g}")
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"at least {low:g}" if high is None else f"in {low:g} … {high:g}"
            raise UserError(f"{name} is {value}; it must be {bounds}")
    return value


def _brief(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "…"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # DEL: legal in JSON, not in TOML
    if value is None:
        return '"none"'
    return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
