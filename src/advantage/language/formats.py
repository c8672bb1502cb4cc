"""What an example must look like: TRL's columns, checked one example at a time. The error recognises other libraries'
layouts.

Text is plain (a string) or a chat (a list of messages `{"role": …, "content": …}`); the texts of one example are all
the one or all the other. Columns that no rule names pass through: rewards read them by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from advantage.errors import UserError
from advantage.language.types import Shown

Example: TypeAlias = Mapping[str, Any]

KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt": (("prompt",), ("prompt_ids",)),
    "sft": (("prompt", "completion"), ("messages",), ("text",), ("prompt_ids", "completion_ids")),
    "preference": (("chosen", "rejected"), ("prompt_ids", "chosen_ids", "rejected_ids")),
    "process": (("prompt", "completions", "labels"),),
    "outcome": (("prompt", "completion", "label"), ("prompt_ids", "completion_ids", "label")),
}
"""Of each kind of data, the columns that make an example, in any one of these ways."""

_SHAREGPT = "from → role (human → user, gpt → assistant), value → content"
_LAYOUTS: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    (
        "alpaca",
        ("instruction", "output"),
        {
            "prompt": 'instruction + "\\n" + input → prompt',
            "sft": 'instruction + "\\n" + input → prompt, output → completion',
        },
    ),
    ("sharegpt", ("conversations", "chosen"), {"preference": f"conversations → prompt, {_SHAREGPT}"}),
    (
        "sharegpt",
        ("conversations",),
        {"prompt": f"conversations → prompt, {_SHAREGPT}", "sft": f"conversations → messages, {_SHAREGPT}"},
    ),
    (
        "verl",
        ("data_source", "reward_model"),
        {
            "prompt": "reward_model.ground_truth → answer",
            "sft": "it has prompts and no completions: good for grpo, with reward_model.ground_truth → answer",
        },
    ),
    ("GSM8K", ("question", "answer"), {"prompt": "question → prompt", "sft": "question → prompt, answer → completion"}),
    (
        "openrlhf",
        ("input", "output"),
        {"prompt": "input → prompt", "sft": "input → prompt, output → completion"},
    ),
    (
        "openrlhf",
        ("context_messages",),
        {"prompt": "context_messages → prompt", "preference": "context_messages → prompt"},
    ),
    ("openrlhf", ("input",), {"prompt": "input → prompt, label → answer"}),
    ("chat", ("messages",), {"prompt": "messages → prompt, without the last answer"}),
    ("TRL's pairs", ("prompt", "chosen"), {"sft": "chosen → completion"}),
)
_PROMPT_LIKE = ("question", "instruction", "input", "query", "context_messages", "conversations")


def infer_kind(columns: Iterable[str]) -> str:
    """The kind of data that has these columns, the most demanding that fits.

    >>> infer_kind(["prompt", "chosen", "rejected"])
    'preference'

    Raises:
        UserError: none fits.
    """
    there = set(columns)
    for kind in ("preference", "process", "outcome", "sft", "prompt"):
        if any(there.issuperset(way) for way in KINDS[kind]):
            return kind
    raise UserError(_missing(there, "sft"))


def check(example: Example, kind: str) -> None:
    """Whether an example is of a kind (a key of `KINDS`); silent where it is.

    Raises:
        UserError: a column is missing, of the wrong type or empty. The line says what there is, and the renaming where
            the layout is another library's.
    """
    way = next((way for way in KINDS[kind] if all(example.get(name) is not None for name in way)), None)
    if way is None:
        raise UserError(_missing({name for name, value in example.items() if value is not None}, kind))
    if way[0] == "prompt_ids":
        for name in way:
            _check_ids(name, example[name]) if name.endswith("_ids") else _check_label(name, example[name])
        return
    _CHECKS[kind](example)


def renaming(columns: Iterable[str], kind: str) -> str | None:
    """How columns of another library's layout are called here, or None where the layout is unknown.

    >>> renaming(["input", "output"], "sft")
    "this looks like openrlhf's layout; rename input → prompt, output → completion"
    """
    there = set(columns)
    for library, marks, renamed in _LAYOUTS:
        if there.issuperset(marks) and kind in renamed:
            owner = library if library.endswith("s") else f"{library}'s layout"
            told = renamed[kind] if "input" in there else renamed[kind].replace(' + "\\n" + input', "")
            return f"this looks like {owner}; {told if told.startswith('it ') else f'rename {told}'}"
    return None


def is_chat(shown: Shown) -> bool:
    """Whether a text is a list of messages."""
    return not isinstance(shown, str)


def parts_of_pair(example: Example) -> tuple[Shown, Shown, Shown]:
    """Prompt, chosen and rejected of a preference, each answer without its prompt.

    Where both answers are whole conversations, the prompt is what `prompt` holds, else the messages that they share.
    Plain answers without a prompt have the empty one.
    """
    prompt, chosen, rejected = example.get("prompt"), example["chosen"], example["rejected"]
    if isinstance(chosen, str):
        return (prompt or ""), chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(prompt, list) and chosen[: len(prompt)] != prompt:
        return prompt, chosen, rejected
    if isinstance(prompt, list) and shared >= len(prompt):
        shared = len(prompt)
    return chosen[:shared], chosen[shared:], rejected[shared:]


# --- one check a kind ---


def _check_prompt(example: Example) -> None:
    _check_shown("prompt", example["prompt"])


def _check_sft(example: Example) -> None:
    if "messages" in example and example["messages"] is not None:
        messages = example["messages"]
        _check_messages("messages", messages)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise UserError('"messages" has no message of the assistant: there is nothing to learn')
        if answers[0] == 0:
            raise UserError('"messages" begins with the assistant; put what it answers before it')
        for i in answers:
            _check_filled(f'message {i + 1} of "messages"', messages[i])
    elif example.get("completion") is not None:
        _check_answer(example, "completion")
    else:
        _check_filled('"text"', _text("text", example["text"]))


def _check_preference(example: Example) -> None:
    if example.get("prompt") is None and (found := [name for name in _PROMPT_LIKE if example.get(name) is not None]):
        told = renaming(example, "preference") or f"rename {found[0]} → prompt"
        raise UserError(f'no column "prompt", but "{found[0]}"; {told}')
    for name in ("chosen", "rejected"):
        _check_shown(name, example[name])
    if is_chat(example["chosen"]) != is_chat(example["rejected"]):
        raise UserError('"chosen" and "rejected" must both be text or both be lists of messages')
    prompt, *answers = parts_of_pair(example)
    whole_chat = is_chat(prompt) and isinstance(example.get("prompt"), str)
    if whole_chat and (not prompt or prompt[-1].get("content") != example["prompt"]):  # type: ignore[union-attr]
        raise UserError('"prompt" is text that the messages of "chosen" and "rejected" do not begin with')
    if is_chat(prompt) and not prompt:
        raise UserError('no column "prompt", and "chosen" and "rejected" do not begin with the same messages')
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        _check_answer({"prompt": prompt, name: answer}, name)
    if example.get("margin") is not None:
        _check_number("margin", example["margin"])


def _check_process(example: Example) -> None:
    _check_shown("prompt", example["prompt"])
    steps, labels = example["completions"], example["labels"]
    if not _is_list(steps) or not steps:
        raise UserError(f'"completions" is {_told(steps)}; it must be a list of texts, one a step')
    if not _is_list(labels) or len(labels) != len(steps):
        count = f"a list of {len(labels)}" if _is_list(labels) else _told(labels)
        raise UserError(f'"labels" is {count} for {len(steps)} completions; it must be a list with one a step')
    for place, (step, label) in enumerate(zip(steps, labels, strict=True), 1):
        _check_filled(f'step {place} of "completions"', _text(f"completions[{place - 1}]", step))
        _check_label(f"labels[{place - 1}]", label)


def _check_outcome(example: Example) -> None:
    _check_answer(example, "completion")
    _check_label("label", example["label"])


_CHECKS = {
    "prompt": _check_prompt,
    "sft": _check_sft,
    "preference": _check_preference,
    "process": _check_process,
    "outcome": _check_outcome,
}


# --- what they are made of ---


def _check_answer(example: Example, name: str) -> None:
    """A prompt and an answer to it, in the same form, the answer not empty."""
    prompt, answer = example["prompt"], example[name]
    if not (isinstance(prompt, str) and not prompt):  # the empty prompt of plain answers that need none
        _check_shown("prompt", prompt)
    _check_shown(name, answer)
    if is_chat(prompt) != is_chat(answer):
        forms = ("text", "a list of messages") if is_chat(answer) else ("a list of messages", "text")
        fix = f'write {name} as [{{"role": "assistant", "content": …}}]' if is_chat(prompt) else "write both alike"
        raise UserError(f'"prompt" is {forms[0]} and "{name}" is {forms[1]}; {fix}')
    if not is_chat(answer):
        return _check_filled(f'"{name}"', answer)
    if prompt[-1]["role"] == "assistant":
        raise UserError('"prompt" ends in a message of the assistant; what is learnt belongs to the completion')
    answers = [message for message in answer if message["role"] == "assistant"]
    if not answers:
        raise UserError(f'"{name}" has no message of the assistant: there is nothing to learn')
    for message in answers:
        _check_filled(f'"{name}"', message)
    return None


def _check_shown(name: str, shown: Any) -> None:
    if isinstance(shown, str):
        if name == "prompt":
            _check_filled(f'"{name}"', shown)
    elif _is_list(shown):
        _check_messages(name, shown)
    else:
        raise UserError(f'"{name}" is {_told(shown)}; it must be text or a list of messages')


def _check_messages(name: str, messages: Any) -> None:
    if not _is_list(messages) or not messages:
        raise UserError(f'"{name}" is {_told(messages)}; it must be a list of messages')
    for place, message in enumerate(messages, 1):
        where = f'message {place} of "{name}"'
        if not isinstance(message, Mapping):
            raise UserError(f'{where} is {_told(message)}; it must be {{"role": …, "content": …}}')
        if "role" not in message and {"from", "value"} <= set(message):
            raise UserError(f"{where} is in sharegpt's form; rename {_SHAREGPT}")
        if not isinstance(message.get("role"), str):
            raise UserError(f'{where} has no "role"; it has: {", ".join(map(str, message)) or "nothing"}')
        content = message.get("content")
        if not (isinstance(content, str) or _is_list(content) or (content is None and message.get("tool_calls"))):
            raise UserError(f"the content of {where} is {_told(content)}; it must be text")


def _check_filled(where: str, text: str | Mapping[str, Any]) -> None:
    content = text if isinstance(text, str) else text.get("content") or text.get("tool_calls")
    if not content or (isinstance(content, str) and not content.strip()):
        raise UserError(f"{where} is empty")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f'"{name}" is {_told(value)}; it must be text')
    return value


def _check_ids(name: str, ids: Any) -> None:
    if not _is_list(ids) or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise UserError(f'"{name}" is {_told(ids)}; it must be a list of token ids')
    if not ids:
        raise UserError(f'"{name}" is empty')


def _check_label(name: str, label: Any) -> None:
    if label not in (0, 1):
        raise UserError(f'"{name}" is {_told(label)}; it must be true or false')


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f'"{name}" is {_told(value)}; it must be a finite number')


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _told(value: Any) -> str:
    """A value's kind, and the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, value)) or 'nothing in it'}"
    if _is_list(value):
        return "a list" if value else "an empty list"
    return f"{value!r:.40}"


def _missing(there: set[str], kind: str) -> str:
    """The line for an example that lacks a column."""
    ways = KINDS[kind]
    way = max(ways, key=lambda way: (len(there.intersection(way)), -ways.index(way)))
    lacks = [f'"{name}"' for name in way if name not in there]
    needs = f" ({kind} data have {', or '.join(' + '.join(way) for way in ways)})"
    told = renaming(there, kind)
    return (
        f"no column{'s' * (len(lacks) > 1)} {' and '.join(lacks)}; there are: {', '.join(sorted(there)) or 'none'}"
        f"{needs}{f'; {told}' if told else ''}"
    )
