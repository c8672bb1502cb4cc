"""What the model will see of a data file, token by token: `advantage data show`."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from advantage.language.data import Data, load_data
from advantage.language.formats import Example
from advantage.language.template import Row, end_tokens, make_prompt, render_example, render_pair, render_steps

if TYPE_CHECKING:
    from advantage.language.template import Tokenizer

LEARNT, STEP = "●", "◆"  # the mask's marks: a token to learn, the end of a step to judge
_GIVEN = "·"


def show(
    file: Data, tokenizer: Tokenizer, rows: int = 1, *, kind: str | None = None, width: int = 100, color: bool = False
) -> str:
    """The first rows of a data file as the model will see them.

    Args:
        file: as for `load_data`; the whole file is checked.
        tokenizer: of the model.
        rows: how many examples, ≥ 1.
        kind: of the data; None takes what the columns say.
        width: of the terminal, in characters.
        color: with the terminal's colours.

    Returns:
        For each example its token table (place, id, text, whether it is learnt, what it is) under a line that counts.

    Raises:
        UserError: as `load_data`, or the template cannot render an example.
    """
    data = load_data(file, kind=kind)
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=color, no_color=not color, highlight=False)
    console.print(Text(f"{data.name}: {_count(len(data), 'example')} of kind {data.kind}"))
    for note in data.notes:
        console.print(Text(f"note: {note}"))
    for index in range(min(rows, len(data))):
        for title, ids, marks in _views(tokenizer, data[index], data.kind):
            console.print()
            console.print(Text(f"example {index + 1}{title}: {_summary(tokenizer, ids, marks)}", style="bold"))
            console.print(_table(tokenizer, ids, marks))
    console.print()
    console.print(
        Text(f"{LEARNT} learnt   {_GIVEN} given" + f"   {STEP} judged" * (data.kind == "process"), style="dim")
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """One token as text: its spaces kept, control characters escaped, bytes that are no character by their name."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    text = piece.replace("▁", " ") if piece.startswith("▁") else tokenizer.decode([token])
    text = piece if not text or "\N{REPLACEMENT CHARACTER}" in text else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).replace(" ", "␣")


def _views(tokenizer: Tokenizer, example: Example, kind: str) -> Iterable[tuple[str, tuple[int, ...], str]]:
    """The tables of an example: title, ids, and one mark a token."""
    if kind == "prompt":
        ids = make_prompt(tokenizer, example, 0).ids
        return [("", ids, _GIVEN * len(ids))]
    if kind == "preference":
        chosen, rejected = render_pair(tokenizer, example)
        return [(", chosen", chosen.ids, _marks(chosen)), (", rejected", rejected.ids, _marks(rejected))]
    if kind == "process":
        row, ends = render_steps(tokenizer, example)
        return [("", row.ids, "".join(STEP if i in ends else _GIVEN for i in range(len(row.ids))))]
    row = render_example(tokenizer, example)
    return [("", row.ids, _marks(row))]


def _marks(row: Row) -> str:
    return "".join(LEARNT if learnt else _GIVEN for learnt in row.mask)


def _summary(tokenizer: Tokenizer, ids: tuple[int, ...], marks: str) -> str:
    counted = _count(len(ids), "token")
    if STEP in marks:
        return f"{counted}, {_count(marks.count(STEP), 'step')} judged"
    if LEARNT not in marks:
        return f"{counted}, the answer begins behind {token_text(tokenizer, ids[-1])}"
    ends = "" if _role(tokenizer, ids[-1]) else "; no end token is learnt: the model is not taught to stop"
    return f"{counted}, {marks.count(LEARNT)} learnt{ends}"


def _table(tokenizer: Tokenizer, ids: tuple[int, ...], marks: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("place", "right"), ("id", "right"), ("", "left"), ("token", "left"), ("", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for place, (token, mark) in enumerate(zip(ids, marks, strict=True)):
        learnt = mark != _GIVEN
        table.add_row(
            str(place),
            str(token),
            Text(mark, style="green" if learnt else "dim"),
            Text(token_text(tokenizer, token), style="bold green" if learnt else ""),
            Text(_role(tokenizer, token), style="yellow"),
        )
    return table


def _role(tokenizer: Tokenizer, token: int) -> str:
    """What a special token is called; empty of all others."""
    names: dict[str, Any] = {"EOS": "eos_token_id", "BOS": "bos_token_id", "PAD": "pad_token_id"}
    roles = [name for name, attribute in names.items() if getattr(tokenizer, attribute) == token]
    return " = ".join(roles) or ("special" if token in end_tokens(tokenizer) else "")


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' * (n != 1)}"
