"""From text to token ids, with a mark on the tokens to learn.

Two rules keep training and sampling together. A prompt has the same ids in training as in sampling: the answer's ids
follow them, whatever a tokenizer would have merged across the border. And the rendered prompt must begin the rendered
conversation; a chat template that breaks this would train on what the model never sees, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from advantage.errors import UserError
from advantage.language.formats import Example, is_chat, parts_of_pair
from advantage.language.quiet import quiet
from advantage.language.types import Prompt, Shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer: TypeAlias = PreTrainedTokenizerBase

STEP_SEPARATOR = "\n"  # between the steps of a process, as TRL writes it


@dataclass(frozen=True)
class Row:
    """A rendered example.

    Attributes:
        ids: of prompt and answer; the last one is the last that is learnt.
        mask: as long; true on tokens that the model is to produce. Never true on the first: nothing predicts it.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]

    @property
    def start(self) -> int:
        """Where the first token to learn stands: the length of the prompt."""
        return self.mask.index(True)


def render_prompt(tokenizer: Tokenizer, shown: Shown, **options: Any) -> tuple[int, ...]:
    """A prompt as the model sees it: plain text with the tokenizer's own specials, a chat with what begins the answer.

    A closing EOS that the tokenizer adds on its own is left off. A chat whose last message is the assistant's is gone
    on with.

    Args:
        tokenizer: of transformers.
        shown: plain text, or messages.
        options: for the chat template (`tools`, …).

    Raises:
        UserError: messages, and the tokenizer has no chat template or its template refuses them.
    """
    if isinstance(shown, str):
        return _encode(tokenizer, shown, specials=True)
    found = _apply(tokenizer, shown, tokenize=True, options={**_opening(shown), **options})
    return tuple(found["input_ids"] if isinstance(found, Mapping) else found)


def make_prompt(tokenizer: Tokenizer, example: Example, index: int) -> Prompt:
    """What sampler and rewards need of an example of kind "prompt"; given `prompt_ids` are taken as they are."""
    columns = {name: value for name, value in example.items() if name not in ("prompt", "prompt_ids")}
    if (ids := example.get("prompt_ids")) is not None:
        return Prompt(tuple(ids), example.get("prompt") or decode(tokenizer, ids), columns, index)
    return Prompt(render_prompt(tokenizer, example["prompt"], **_options(example)), example["prompt"], columns, index)


def render_example(tokenizer: Tokenizer, example: Example) -> Row:
    """An example of kind "sft" or "outcome".

    Learnt are the completion, or all turns of the assistant, each with the token that ends it; of `text` everything. A
    plain completion gets the EOS, once. Given `prompt_ids` and `completion_ids` are taken as they are.

    Raises:
        UserError: no chat template, one that is not prefix-preserving, no EOS where one is to be added.
    """
    if example.get("completion_ids") is not None:
        return _given(example["prompt_ids"], example["completion_ids"])
    if example.get("messages") is not None:
        return _chat(tokenizer, example["messages"], 0, _options(example))
    if example.get("completion") is None:
        return _plain(tokenizer, "", example["text"])
    return _answered(tokenizer, example["prompt"], example["completion"], _options(example))


def render_pair(tokenizer: Tokenizer, example: Example) -> tuple[Row, Row]:
    """The chosen and the rejected answer of an example of kind "preference", each behind the prompt.

    Raises:
        UserError: as `render_example`.
    """
    if example.get("chosen_ids") is not None:
        prompt_ids = example["prompt_ids"]
        return _given(prompt_ids, example["chosen_ids"]), _given(prompt_ids, example["rejected_ids"])
    prompt, chosen, rejected = parts_of_pair(example)
    options = _options(example)
    return _answered(tokenizer, prompt, chosen, options), _answered(tokenizer, prompt, rejected, options)


def render_steps(tokenizer: Tokenizer, example: Example) -> tuple[Row, tuple[int, ...]]:
    """An example of kind "process": the prompt and its steps, each but the last closed by a newline.

    Returns:
        The row, and where each step's last token stands: there its label (`labels`) is to be predicted.
    """
    ids = list(render_prompt(tokenizer, example["prompt"], **_options(example)))
    start, ends, last = len(ids), [], len(example["completions"]) - 1
    for place, step in enumerate(example["completions"]):
        closed = step if place == last or step.endswith(STEP_SEPARATOR) else step + STEP_SEPARATOR
        ids += _encode(tokenizer, closed, specials=False)
        ends.append(len(ids) - 1)
    return _row(ids, [(start, len(ids))]), tuple(ends)


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Token ids as text, special tokens included."""
    return str(tokenizer.decode(list(ids)))


def end_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The special tokens, with one of which a turn ends."""
    return _end_tokens(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _end_tokens(tokenizer: Tokenizer, _: int) -> frozenset[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added.union(tokenizer.all_special_ids))


# --- plain text ---


def _answered(tokenizer: Tokenizer, prompt: Shown, answer: Shown, options: Mapping[str, Any]) -> Row:
    if isinstance(prompt, str) and isinstance(answer, str):
        return _plain(tokenizer, prompt, answer)
    if not is_chat(prompt) or not is_chat(answer):
        raise UserError("prompt and completion must both be text or both be lists of messages")
    return _chat(tokenizer, [*prompt, *answer], len(prompt), options)


def _plain(tokenizer: Tokenizer, prompt: str, completion: str) -> Row:
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError(f"{_name(tokenizer)} has no EOS token to end a completion with; set its eos_token")
    first, second = _encode_pieces(tokenizer, [prompt, completion], specials=True)
    ids = [*first, *second]
    return _row(ids if second[-1:] == (eos,) else [*ids, eos], [(len(first), None)])


def _given(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Row:
    return _row([*prompt_ids, *completion_ids], [(len(prompt_ids), None)])


# --- chat ---


def _chat(tokenizer: Tokenizer, messages: Sequence[Any], first: int, options: Mapping[str, Any]) -> Row:
    """A conversation with the assistant's turns from message `first` on marked, cut behind the last of them.

    What a template writes behind a turn's end token (a newline) is not learnt: nobody samples it.
    """
    whole = _render(tokenizer, messages, options)
    cuts = [0]
    for turn, message in enumerate(messages):
        if turn < first or message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:turn], {"add_generation_prompt": True, **options})
        after = whole if turn + 1 == len(messages) else _render(tokenizer, messages[: turn + 1], options)
        for part, what in ((before, "prompt"), (after, "conversation")):
            _check_prefix(tokenizer, part, whole, f"the {what} up to message {turn + (part is after)}")
        cuts += [max(len(before), cuts[-1]), len(after)]
    pieces = _encode_pieces(
        tokenizer, [whole[a:b] for a, b in zip(cuts, [*cuts[1:], len(whole)], strict=True)], specials=False
    )
    spans: list[tuple[int, int | None]] = []
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        if place % 2:  # prompt, answer, prompt, answer, …
            spans.append((len(ids), len(ids) + _turn_length(tokenizer, piece)))
        ids += piece
    return _row(ids[: spans[-1][1]], spans)


def _turn_length(tokenizer: Tokenizer, turn: Sequence[int]) -> int:
    """How many tokens of a turn are learnt: up to its end token; all, without one or with text behind it."""
    ends = end_tokens(tokenizer)
    last = next((i for i in reversed(range(len(turn))) if turn[i] in ends), len(turn) - 1)
    return last + 1 if not decode(tokenizer, turn[last + 1 :]).strip() else len(turn)


def _render(tokenizer: Tokenizer, messages: Sequence[Any], options: Mapping[str, Any]) -> str:
    return str(_apply(tokenizer, messages, tokenize=False, options=options))


def _apply(tokenizer: Tokenizer, messages: Sequence[Any], *, tokenize: bool, options: Mapping[str, Any]) -> Any:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{_name(tokenizer)} has no chat template, which messages need; give plain text, or take a model with one"
        )
    try:
        with quiet():  # a text longer than the context is counted where it is read, not warned of here
            return tokenizer.apply_chat_template(list(messages), tokenize=tokenize, **options)
    except Exception as error:  # whatever a template raises: it is a program from elsewhere
        raise UserError(f"{_template(tokenizer)} refuses the messages: {' '.join(str(error).split())}") from error


def _opening(messages: Sequence[Any]) -> dict[str, bool]:
    """How a template is asked to stop where the assistant goes on."""
    if messages and messages[-1]["role"] == "assistant":
        return {"continue_final_message": True}
    return {"add_generation_prompt": True}


def _options(example: Example) -> dict[str, Any]:
    """What an example hands to its chat template."""
    given = example.get("chat_template_kwargs") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"chat_template_kwargs is {str(given)[:60]!r}; it must be an object")
    options = dict(given)
    if tools := example.get("tools"):
        try:
            options["tools"] = json.loads(tools) if isinstance(tools, str) else tools
        except ValueError:
            raise UserError(f"tools is {tools[:60]!r}; it must be a list of tools, or JSON of one") from None
    return options


def _check_prefix(tokenizer: Tokenizer, part: str, whole: str, what: str) -> None:
    """Raises where the template writes `part` otherwise when more follows, and says from which token on."""
    if whole.startswith(part):
        return
    short, long = (_encode(tokenizer, text, specials=False) for text in (part, whole))
    place = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), min(len(short), len(long)))
    here, there = (repr(decode(tokenizer, ids[place : place + 4])) for ids in (short, long))
    raise UserError(
        f"{_template(tokenizer)} is not prefix-preserving: {what} has {here} at token {place}, "
        f"the whole conversation has {there}; "
        "train one answer a line (prompt, completion), or with a template that writes both alike"
    )


# --- ids ---


def _encode(tokenizer: Tokenizer, text: str, *, specials: bool) -> tuple[int, ...]:
    """Token ids, without an EOS that the tokenizer adds on its own."""
    ids = tuple(tokenizer(text, add_special_tokens=specials, verbose=False)["input_ids"])
    closed = specials and ids[-1:] == (tokenizer.eos_token_id,) and not text.endswith(str(tokenizer.eos_token))
    return ids[:-1] if closed else ids


def _encode_pieces(tokenizer: Tokenizer, pieces: Sequence[str], *, specials: bool) -> list[tuple[int, ...]]:
    """The ids of a text's pieces: those of the whole text where no token lies across a border, else each piece's own.

    Raises:
        UserError: pieces by themselves read differently from the whole.
    """
    whole = _encode(tokenizer, "".join(pieces), specials=specials)
    borders = [0]
    for place in range(1, len(pieces)):
        prefix = _encode(tokenizer, "".join(pieces[:place]), specials=specials)
        if whole[: len(prefix)] != prefix:
            break
        borders.append(len(prefix))
    else:
        return [whole[a:b] for a, b in zip(borders, [*borders[1:], len(whole)], strict=True)]
    apart = [_encode(tokenizer, piece, specials=specials and not place) for place, piece in enumerate(pieces)]
    read, written = (decode(tokenizer, ids) for ids in (sum(apart, ()), whole))
    if read != written:
        raise UserError(
            f"{_name(tokenizer)} reads prompt and completion apart as {read[-60:]!r} and together as "
            f"{written[-60:]!r}; move the space at the border to the other side"
        )
    return apart


def check_known(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Refuses given token ids that the tokenizer does not have.

    Raises:
        UserError: the largest of them is none.
    """
    if max(ids) >= len(tokenizer):
        raise UserError(
            f"token id {max(ids)} is none of {_name(tokenizer)}, which has {len(tokenizer)}; "
            "give ids of this model's tokenizer, or text"
        )


def _row(ids: Sequence[int], spans: Sequence[tuple[int, int | None]]) -> Row:
    mask = [False] * len(ids)
    for start, stop in spans:
        mask[start:stop] = [True] * len(mask[start:stop])
    mask[:1] = [False]
    if not any(mask):
        raise UserError("an example has no token to learn")
    return Row(tuple(ids), tuple(mask))


def _name(tokenizer: Tokenizer) -> str:
    name = getattr(tokenizer, "name_or_path", "")
    return f"the tokenizer of {name}" if name else "the tokenizer"


def _template(tokenizer: Tokenizer) -> str:
    name = getattr(tokenizer, "name_or_path", "")
    return f"the chat template of {name}" if name else "the chat template"
