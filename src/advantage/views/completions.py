"""What a language model wrote when a run began and when it was last heard of, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from advantage.runs.reader import RunReader
from advantage.views.html import Html, element, number, text

PROMPTS = 4  # shown at most
EACH = 2  # completions of a prompt
WINDOW = 0.1  # share of the updates, at either end, in which the same prompt is looked for
LONGEST = 600  # characters of a text; the rest is counted

Row = Mapping[str, Any]
Group = Sequence[Row]  # completions of one prompt in one update


def before_and_after(reader: RunReader, updates: int) -> Iterator[Html]:
    """Completions of the same prompts at both ends of the run, where one came twice; else of those most alike."""
    width = max(1, round(WINDOW * updates))
    early = _groups(reader.completions(1, width))
    late = _groups(reader.completions(max(width + 1, updates - width + 1), updates))
    pairs = _same(early, late)
    said = "The same prompts at the beginning and at the end"
    if not pairs:
        pairs = _alike(early[: 4 * PROMPTS], late[-4 * PROMPTS :])
        said = "No prompt was drawn at both ends; these are the most alike"
    if not pairs:
        yield element("p", text("Not yet: the run has completed one update at most."), class_="soft")
        return
    yield element("p", text(f"{said}; at most {EACH} completions of each, as they were sampled."), class_="soft")
    for pair in pairs:
        yield element("div", *(_card(group) for group in pair), class_="pair")


def card(head: str, prompt: str, texts: Sequence[tuple[str, str]]) -> Html:
    """A prompt and texts behind it, each with what is said of it."""
    said = [
        element(
            "div",
            element("p", text(clipped(words)), class_="words"),
            element("p", text(verdict), class_="soft"),
            class_="said",
        )
        for words, verdict in texts
    ]
    asked = element("p", text(clipped(prompt)), class_="words asked")
    return element("div", element("h3", text(head)), asked, *said, class_="card")


def clipped(words: str) -> str:
    """The beginning of a text, and how much more there is.

    >>> clipped("a" * 700)[599:]
    'a … (100 more characters)'
    """
    if not words:
        return "(nothing)"
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} … ({len(words) - LONGEST:,} more characters)"


def _card(group: Group) -> Html:
    rewards = [row["reward"] for row in group if row["reward"] is not None]
    mean = f", mean reward of {len(rewards)}: {number(sum(rewards) / len(rewards))}" if len(rewards) > 1 else ""
    texts = [(row["completion"], f"{_paid(row['reward'])} · {_ended(row)}") for row in group[:EACH]]
    return card(f"update {group[0]['update']:,}{mean}", group[0]["prompt"], texts)


def _paid(reward: float | None) -> str:
    return "no reward" if reward is None else f"reward {number(reward)}"


def _ended(row: Row) -> str:
    """How a completion ended, in words."""
    reason = str(row["finish_reason"])
    return {"stop": "ended by itself", "length": "cut at the limit"}.get(reason, reason)


def _groups(rows: Sequence[Row]) -> list[Group]:
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["update"], row["group"]), []).append(row)
    return list(groups.values())


def _same(early: Sequence[Group], late: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups of one prompt: its first among the early ones, its last among the late ones."""
    first = {group[0]["prompt"]: group for group in reversed(early)}
    last = {group[0]["prompt"]: group for group in late}
    return [(first[prompt], last[prompt]) for prompt in first if prompt in last][:PROMPTS]


def _alike(early: Sequence[Group], late: Sequence[Group]) -> list[tuple[Group, Group]]:
    """The groups of early and late prompts that are most alike, none twice."""

    def unlike(pair: tuple[int, int]) -> float:
        words = (early[pair[0]][0]["prompt"][:LONGEST], late[pair[1]][0]["prompt"][:LONGEST])
        return -SequenceMatcher(None, *words).ratio()

    order = sorted(((i, j) for i in range(len(early)) for j in range(len(late))), key=unlike)
    found: list[tuple[int, int]] = []
    for i, j in order:
        if len(found) < PROMPTS and all(i != a and j != b for a, b in found):
            found.append((i, j))
    return [(early[i], late[j]) for i, j in found]
