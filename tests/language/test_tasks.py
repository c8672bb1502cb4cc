"""Tasks: their own answers are right, others wrong; the sides share no prompt; the same examples in every process."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.errors import UserError
from advantage.language.tasks import TASKS, preferences, snippets, task
from advantage.language.tasks.generated import GENERATED
from advantage.language.tiny import is_held_out

OWN = [*GENERATED, "mix"]
GYM = [name for name in TASKS if name.startswith("gym:")]
MADE = {name: task(name) for name in OWN}


def judge(made, row, text):
    columns = {name: [value] for name, value in row.items() if name != "prompt"}
    completion = [{"role": "assistant", "content": text}] if isinstance(row["prompt"], list) else text
    return made.reward(prompts=[row["prompt"]], completions=[completion], completion_ids=[[1]], **columns)


def words(row):
    return row["prompt"][0]["content"]


@given(name=st.sampled_from(OWN), index=st.integers(0, 2**40), held_out=st.booleans(), extra=st.sampled_from("x7 1-"))
@settings(max_examples=300, deadline=None)
def test_a_tasks_own_answer_is_worth_1_and_a_changed_one_0(name, index, held_out, extra):
    made = MADE[name]
    row = made.example(index, held_out)
    assert judge(made, row, row["answer"]) == judge(made, row, f"  {row['answer']}\n") == [1.0]
    wrong = [row["answer"] + extra + "9", "q" + row["answer"], row["answer"][:-1], row["answer"][::-1] + "0", ""]
    assert [judge(made, row, text) for text in wrong] == [[0.0]] * 5


@given(name=st.sampled_from(OWN), index=st.integers(0, 2**40), held_out=st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_prompt_says_the_side_and_the_answer_fits(name, index, held_out):
    row = MADE[name].example(index, held_out)
    assert is_held_out(words(row)) == held_out
    assert len(row["answer"]) + 1 <= MADE[name].max_completion_length
    assert row == MADE[name].example(index, held_out)


def solve(text):
    """The answer, read from the prompt by another way than the tasks'."""
    if text.endswith("="):
        left, sign, right = text[:-1].partition("+" if "+" in text else "-")
        return str(int(left) + int(sign + right))
    kind, *rest = text.split()
    if kind == "json":
        return "{" + ", ".join(f'"{pair[0]}": {pair[2:]}' for pair in rest) + "}"
    if kind == "sort":
        return " ".join(sorted(rest, key=int))
    return "".join(reversed(rest[0])) if kind == "reverse" else rest[0]


@pytest.mark.parametrize("name", OWN)
def test_answers_are_those_of_the_prompts(name):
    rows = [MADE[name].example(index, held) for index in range(150) for held in (False, True)]
    assert [row["answer"] for row in rows] == [solve(words(row)) for row in rows]
    assert len({words(row) for row in rows}) > 100


@pytest.mark.parametrize("name", OWN)
def test_the_longest_answer_is_as_long_as_said(name):
    longest = max(len(MADE[name].example(index)["answer"]) for index in range(3000))
    assert longest + 1 == MADE[name].max_completion_length


def test_mix_goes_round_and_draws_what_its_parts_draw():
    rows = [MADE["mix"].example(index, True) for index in range(12)]
    assert [row["task"] for row in rows] == [*GENERATED] * 2
    assert rows[7] == task("subtract").example(1, True)


def test_small_spaces_keep_the_sides_apart():
    small = task("copy", min_length=1, max_length=1)
    sides = [{words(small.example(index, held)) for index in range(300)} for held in (False, True)]
    assert not sides[0] & sides[1] and sum(map(len, sides)) == 26 and all(sides)


def test_plain_prompts_are_text_and_judged_as_text():
    plain = task("add", chat=False)
    row = plain.example(0)
    assert row["prompt"] == words(MADE["add"].example(0))
    assert judge(plain, row, row["answer"]) == [1.0]


def test_examples_do_not_change_from_process_to_process():
    code = (
        "import hashlib, json; from advantage.language.tasks import task\n"
        "rows = [task(n).example(i, h) for n in ('mix', 'gym:chain_sum') for i in range(24) for h in (False, True)]\n"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [task(n).example(i, h) for n in ("mix", "gym:chain_sum") for i in range(24) for h in (False, True)]
    assert fresh.stdout.strip() == hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_listing_tasks_and_making_one_loads_nothing_heavy():
    code = (
        "import sys; from advantage.language.tasks import task; task('add')\n"
        "print([m for m in ('torch', 'transformers', 'reasoning_gym', 'sympy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("ad", {}, "did you mean add"),
        ("chain_sum", {}, "did you mean gym:chain_sum"),
        ("gym:chain_sums", {}, "did you mean chain_sum"),
        ("movie-snippets", {}, "data for reward_model and dpo"),
        ("add", {"max_digit": 3}, "did you mean max_digits"),
        ("add", {"max_digits": "3"}, "whole number from 1 to 15"),
        ("add", {"min_digits": 3}, "above max_digits (2)"),
        ("json", {"max_pairs": 27}, "from 1 to 26"),
        ("mix", {"max_digits": 3}, "it has chat alone"),
        ("gym:chain_sum", {"max_term": 3}, "did you mean max_terms"),
        ("gym:chain_sum", {"min_terms": 9}, "cannot be made with"),
        ("gym:chain_sum", {"threshold": 0}, "threshold is 0"),
        ("gym:polynomial_multiplication", {}, "sandboxed code rewards are not built"),
        ("sort", {"min_numbers": 1, "max_numbers": 1, "max_value": 1}, "no example to hold out"),
        ("gym:gcd", {"max_value": 1}, "cannot be made with"),
    ],
)
def test_mistakes_are_one_line(name, config, says):
    with pytest.raises(UserError) as error:
        task(name, **config)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_negative_index_is_refused():
    with pytest.raises(UserError, match="at least 0"):
        MADE["add"].example(-1)


def test_without_reasoning_gym_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match=r"advantage\[language\]"):
        task("gym:chain_sum")


@pytest.mark.parametrize("name", GYM)
def test_reasoning_gyms_own_answers_are_right_and_garbage_is_wrong(name):
    made = task(name)
    for index in range(20):
        for held_out in (False, True):
            row = made.example(index, held_out)
            assert judge(made, row, row["answer"] + "\n") == [1.0]
            assert judge(made, row, row["answer"] + "7") == judge(made, row, "") == judge(made, row, "q w") == [0.0]
            assert len(row["answer"]) + 1 <= made.max_completion_length
    sides = [{words(made.example(index, held)) for index in range(60)} for held in (False, True)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("name", ["gym:countdown", "gym:n_queens", "gym:spiral_matrix"])
def test_no_answer_is_run_as_a_program(name, tmp_path):
    made, trace = task(name), tmp_path / "ran"
    row = made.example(0)
    assert judge(made, row, f"open({str(trace)!r}, 'w')") == judge(made, row, "9**9**9**9**9") == [0.0]
    assert not trace.exists()


def test_a_scorer_that_raises_has_seen_a_wrong_answer():
    made = task("gym:prime_factorization")
    row = made.example(0)
    assert judge(made, row, "garbage") == [0.0] and judge(made, row, row["answer"]) == [1.0]


SNIPPETS = [(f"snippet {number}", [number % 9 - 4, number % 7 - 3, 1]) for number in range(400)]


GROUND_TRUTH = "1\t2.0\tA fine film — really.\r\n2\t-1\tBad\r\n"


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_snippets_are_read_from_the_source_distribution():
    inner = archive(
        {
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": GROUND_TRUTH.encode(),
            "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt": b"1\t2.0\t0.5\t[3, 1]\n2\t-1\t0\t[-1, -1]\n",
        }
    )
    whole = archive({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    assert list(snippets.parse(whole)) == [("A fine film — really.", [3, 1]), ("Bad", [-1, -1])]
    with pytest.raises(UserError, match="no film ratings"):
        list(snippets.parse(archive({"other": b""})))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "advantage" / "data" / "movie-snippets.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(snippet) + "\n" for snippet in SNIPPETS))
    return path


def test_pairs_choose_the_better_rated_and_know_how_many_disagree(cached):
    ratings = dict(SNIPPETS)
    rows = preferences("movie-snippets", chat=False, rounds=3)
    assert len(rows) > 300
    for row in rows:
        better, worse = ratings[row["chosen"]], ratings[row["rejected"]]
        assert row["margin"] == pytest.approx(sum(better) / 3 - sum(worse) / 3) and row["margin"] > 0
        against = sum((b < w) + 0.5 * (b == w) for b in better for w in worse) / 9
        assert row["disagreement"] == pytest.approx(against)
    assert min(row["margin"] for row in preferences("movie-snippets", min_margin=1.0)) > 1.0


def test_no_snippet_is_on_both_sides_and_the_pairs_stay(cached):
    sides = [preferences("movie-snippets", held_out=held, chat=False, rounds=5) for held in (False, True)]
    texts = [{row[column] for row in side for column in ("chosen", "rejected")} for side in sides]
    assert all(sides) and not texts[0] & texts[1]
    assert sides[0] == preferences("movie-snippets", chat=False, rounds=5)
    chat = preferences("movie-snippets", held_out=True, rounds=5)
    assert [row["chosen"] for row in chat] == [[{"role": "assistant", "content": row["chosen"]}] for row in sides[1]]


def test_preferences_that_are_not_there(tmp_path, monkeypatch, cached):
    cached.write_text("no json\n")
    with pytest.raises(UserError, match="broken"):
        preferences("movie-snippets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="models fetch movie-snippets"):
        preferences("movie-snippets")
    with pytest.raises(UserError, match="did you mean movie-snippets"):
        preferences("movie-snippet")
    with pytest.raises(UserError, match="rounds is 0"):
        preferences("movie-snippets", rounds=0)


def test_a_download_that_is_another_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def pip(command, **_):
        with open(f"{command[command.index('--dest') + 1]}/vaderSentiment-3.3.2.tar.gz", "wb") as file:
            file.write(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(snippets.subprocess, "run", pip)
    with pytest.raises(UserError, match="not the file that is known"):
        snippets.fetch()
    monkeypatch.setattr(
        snippets.subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", "ERROR: no net\n")
    )
    with pytest.raises(UserError, match="no net"):
        snippets.fetch()
    assert not (tmp_path / "advantage" / "data").exists()
