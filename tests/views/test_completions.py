from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from advantage.runs.reader import RunReader
from advantage.trajectory import Sample
from advantage.views.completions import EACH, LONGEST, PROMPTS, before_and_after
from tests.views.synthetic import make_run


def drawn(prompts: Sequence[str], text: str, n: int = 3) -> list[Sample]:
    return [
        Sample(group, index, prompt, f"{text} {index}", 0.5 * index, ("stop", "length")[index % 2])
        for group, prompt in enumerate(prompts)
        for index in range(n)
    ]


def seen(folder: Path, samples: dict[int, list[Sample]], updates: int) -> str:
    run = make_run(folder / "run", [{"reward": 0.5}] * updates, algorithm="grpo", language=True, samples=samples)
    return "".join(before_and_after(RunReader(run), updates))


def cards(document: str) -> list[str]:
    return re.findall(r'class="words asked">([^<]*)<', document)


def test_the_same_prompts_stand_side_by_side(tmp_path: Path) -> None:
    """Though others were drawn too, in the window of either end."""
    samples = {
        1: drawn(["a", "b"], "old"),
        2: drawn(["c", "b"], "old"),
        19: drawn(["x", "b"], "new"),
        20: drawn(["c", "z"], "new"),
    }
    document = seen(tmp_path, samples, 20)
    assert sorted(cards(document)) == ["b", "b", "c", "c"]
    assert "The same prompts" in document
    assert [int(update) for update in re.findall(r"update (\d+),", document)] == [1, 19, 2, 20]  # first, and last


def test_without_the_same_the_most_alike_do_and_none_twice(tmp_path: Path) -> None:
    early = [f"sort {i} {i} {i}" for i in (12, 93, 55)]
    document = seen(tmp_path, {1: drawn(early, "old"), 5: drawn(["sort 12 12 13", "copy abcd", "sort 55 5"], "new")}, 5)
    assert cards(document)[:2] == ["sort 12 12 12", "sort 12 12 13"]
    assert len(set(cards(document))) == len(cards(document)) == 6
    assert "No prompt was drawn at both ends" in document


def test_reward_and_end_are_told_and_the_mean_is_of_all(tmp_path: Path) -> None:
    document = seen(tmp_path, {1: drawn(["a"], "old"), 2: drawn(["a"], "new")}, 2)
    assert "reward 0 · ended by itself" in document and "reward 0.5 · cut at the limit" in document
    assert document.count('class="said"') == 2 * EACH and "mean reward of 3: 0.5" in document
    unscored = [Sample(0, 0, "a", "", None, "stop")]
    (tmp_path / "other").mkdir()
    document = seen(tmp_path / "other", {1: unscored, 2: unscored}, 2)
    assert "(nothing)" in document and "no reward · ended by itself" in document


def test_the_page_stays_small_and_obeys_no_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>" + "a" * 5000
    document = seen(tmp_path, {1: drawn([hostile] * 50, hostile), 2: drawn([hostile], hostile)}, 2)
    assert "<script" not in document and "more characters" in document
    assert len(document) < (LONGEST + 700) * 2 * PROMPTS * (EACH + 1)


def test_one_update_is_no_comparison(tmp_path: Path) -> None:
    assert "Not yet" in seen(tmp_path, {1: drawn(["a"], "old")}, 1)
