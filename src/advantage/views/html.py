"""Self-contained pages: text is escaped where it is written, one style sheet, and a policy that lets nothing in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import NewType

Html = NewType("Html", str)
"""Markup. Only this module makes it from text, by escaping; the type checker refuses a plain string in its place."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""No script, no network: what a hostile name might smuggle in could do nothing."""

STYLE = (resources.files("advantage.views") / "page.css").read_text(encoding="utf-8")


def text(value: object) -> Html:
    """Text as markup: whatever it says is shown, nothing of it is obeyed.

    >>> text("<script>")
    '&lt;script&gt;'
    """
    return Html(escape(str(value)))


def element(name: str, *children: Html, **attributes: str) -> Html:
    """An element; attribute values are escaped, `class_` writes class and `view_box` viewBox.

    >>> element("b", text("a&b"), class_='"x"')
    '<b class="&quot;x&quot;">a&amp;b</b>'
    """
    renamed = {"class_": "class", "view_box": "viewBox", "preserve": "preserveAspectRatio", "label": "aria-label"}
    written = "".join(f' {renamed.get(key, key)}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(children)}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    """Several pieces in a row."""
    return Html("".join(parts))


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Html]],
    numbers: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> Html:
    """A table that scrolls inside itself on a narrow screen.

    Args:
        numbers: columns that are set to the right.
        marked: rows that stand out.
    """

    def row(cell: str, cells: Sequence[Html]) -> Html:
        return join(element(cell, c, **({"class_": "number"} if i in numbers else {})) for i, c in enumerate(cells))

    classes = [{"class_": "marked"} if i in marked else {} for i in range(len(rows))]
    body = [element("tr", row("td", cells), **own) for cells, own in zip(rows, classes, strict=True)]
    head = element("thead", element("tr", row("th", [text(name) for name in heads])))
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")


def section(title: str, *children: Html) -> Html:
    """A titled part of a page."""
    return element("section", element("h2", text(title)), *children)


def page(title: str, *children: Html) -> str:
    """A whole document that needs no network and can run no script."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{join(children)}</main></body></html>\n"
    )


def number(value: float | None) -> str:
    """A number for people: four significant digits, thousands parted; a dash where there is none.

    >>> number(1234567.0), number(0.0123456), number(-3.0), number(None), number(float("nan"))
    ('1,234,567', '0.01235', '−3', '–', 'nan')
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e9):
        return f"{value:.3g}".replace("-", "−")
    places = 0 if size >= 1000 else 3 - math.floor(math.log10(size)) if size else 0
    shown = f"{value:,.{max(places, 0)}f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown).replace("-", "−")


def short(value: float, step: float) -> str:
    """A number for an axis, to the place that tells it from its neighbours.

    >>> short(0, 1), short(20_000, 5_000), short(1.5e6, 5e5), short(0.05, 0.05), short(50.002, 0.002)
    ('0', '20k', '1.5M', '0.05', '50.002')
    """
    if value == 0:
        return "0"
    sizes = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    size, letter = next((size, letter) for least, size, letter in sizes if abs(value) >= least)
    places = max(0, math.ceil(-math.log10(step / size) - 1e-9))
    shown = f"{value:.2g}" if places > 5 or abs(value) >= 1e13 else f"{value / size:.{places}f}{letter}"
    return shown.replace("-", "−")
