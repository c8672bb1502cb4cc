from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage.errors import RunFailed, UserError
from advantage.language.data import Cursor, Examples, Order, load_data
from advantage.language.formats import KINDS, check, infer_kind, parts_of_pair
from advantage.language.models import load_tokenizer
from tests.language.hand_tokenizers import NO_END, STRIPS_THINKING, byte_tokenizer, chat

GOOD: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "2+2=", "answer": "4"},
    "sft": {"prompt": "2+2=", "completion": "4"},
    "preference": {"prompt": "2+2=", "chosen": "4", "rejected": "5", "margin": 0.5},
    "process": {"prompt": "2*3+1", "completions": ["2*3=6", "6+1=7"], "labels": [True, True]},
    "outcome": {"prompt": "2+2=", "completion": "4", "label": True},
}


def written(path: Path, *lines: Any) -> Path:
    """A JSON Lines file of examples, strings as they are."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def refused(spec: Any, **how: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_data(spec, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ---


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_known_by_its_columns(tmp_path: Path, kind: str) -> None:
    data = load_data(written(tmp_path / "d.jsonl", GOOD[kind], GOOD[kind]), tokenizer=byte_tokenizer())
    assert (data.kind, len(data), data[1], data.notes) == (kind, 2, GOOD[kind], ())
    assert list(data) == [GOOD[kind]] * 2
    assert data[:1] == [GOOD[kind]]
    with pytest.raises(IndexError):
        data[2]


@pytest.mark.parametrize(
    "example",
    [
        {"prompt_ids": [5, 300]},
        {"prompt_ids": [5], "completion_ids": [300]},
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7, 300]},
    ],
)
def test_a_token_that_the_tokenizer_does_not_know_is_refused_by_its_line(tmp_path: Path, example: Any) -> None:
    tokenizer = load_tokenizer("tiny")
    assert len(tokenizer) <= 300
    found = refused(written(tmp_path / "d.jsonl", example), tokenizer=tokenizer)
    assert found.startswith(f"{tmp_path}/d.jsonl:1: token id 300 is none of the tokenizer of ")


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n  \n{"prompt": "\xc3\xa9"}')
    assert [row["prompt"] for row in load_data(path, kind="prompt")] == ["a", "é"]


columns = st.dictionaries(
    st.text(min_size=1, max_size=5).map(lambda name: f"x{name}"),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    max_size=3,
)
filled = st.text(min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(filled, filled, columns), min_size=1, max_size=8), st.booleans())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], ascii_only: bool) -> None:
    examples = [{"prompt": prompt, "completion": completion, **rest} for prompt, completion, rest in rows]
    path = tmp_path_factory.mktemp("d") / "d.jsonl"
    path.write_bytes(b"\n".join(json.dumps(row, ensure_ascii=ascii_only).encode() for row in examples))
    data = load_data(path, kind="sft")
    assert list(data) == examples
    assert [data[i] for i in reversed(range(len(data)))] == examples[::-1]
    assert data.digest == load_data(examples, kind="sft").digest


def test_parquet_and_folders_of_datasets_give_what_json_lines_give(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"messages": chat("a", "b"), "id": 1},
        {"messages": [{"role": "user", "content": "c", "name": "Eve"}, *chat("", "d")[1:]], "id": 2},
    ]
    lines = load_data(written(tmp_path / "d.jsonl", *rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "splits")
    for name in ("d.parquet", "saved", "splits"):
        data = load_data(str(tmp_path / name))
        assert list(data) == rows
        assert (data.kind, data.digest) == ("sft", lines.digest)


def test_a_table_s_empty_columns_stay_for_rewards_and_do_not_choose_the_form(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_ids": None, "hint": None},
        {"prompt": "a", "chosen": "b", "rejected": "b", "chosen_ids": None, "hint": "x"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    data = load_data(tmp_path / "d.parquet", tokenizer=byte_tokenizer())
    assert list(data) == rows
    assert len(data.notes) == 1


def test_a_name_is_looked_up_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [GOOD["sft"]])
    for name in ("owner/set", "owner/set:test", "owner/set:main:test"):
        assert load_data(name)[0] == GOOD["sft"]
    assert asked == [
        (("owner/set", None), {"split": "train"}),
        (("owner/set", None), {"split": "test"}),
        (("owner/set", "main"), {"split": "test"}),
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no\nhub")))
    assert refused("owner/set") == "owner/set: no such file, and datasets cannot load it: no hub"


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", '{"prompt": "a", "completion": "b"}')
    spaced = written(tmp_path / "b.jsonl", '{"completion":"b",  "prompt":"a"}', "")
    other = written(tmp_path / "c.jsonl", '{"prompt": "a", "completion": "c"}')
    digests = [load_data(path).digest for path in (first, spaced, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", GOOD["sft"])
    data = load_data(path)
    written(path, {"prompt": "other", "completion": "longer than before"})
    with pytest.raises(RunFailed, match=r"d\.jsonl: the file has changed since it was checked"):
        data[0]


# --- counted ---


def test_long_examples_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * n, "completion": "b"} for n in (1, 20, 3, 30)]
    path = written(tmp_path / "d.jsonl", *rows)
    data = load_data(str(path), tokenizer=byte_tokenizer(), max_length=10)
    assert list(data) == [rows[0], rows[2]]
    assert data.notes == (f"{path}: 2 of 4 examples are longer than 10 tokens (up to 33) and are left out",)
    assert data.digest == load_data([rows[0], rows[2]]).digest
    said = refused(str(path), tokenizer=byte_tokenizer(), max_length=2)
    assert said == f"{path}: all 4 examples are longer than 2 tokens"
    exact = load_data(rows[:1], tokenizer=byte_tokenizer(), max_length=4)  # bos, a, b, eos
    assert len(exact) == 1


def test_a_pair_is_as_long_as_its_longer_answer() -> None:
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c" * n} for n in (1, 9)]
    assert list(load_data(pairs, tokenizer=byte_tokenizer(), max_length=8)) == pairs[:1]


def test_max_length_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs the tokenizer"):
        load_data([GOOD["sft"]], max_length=3)


def test_pairs_without_a_difference_are_counted() -> None:
    same = {"chosen": chat("a", "b"), "rejected": chat("a", "b")}
    data = load_data([GOOD["preference"], same, {"prompt": "x", "chosen": "y", "rejected": "y"}])
    assert len(data) == 3
    assert data.notes == ("data: 2 of 3 pairs have chosen = rejected: they teach nothing",)


def test_answers_that_end_in_no_end_token_are_counted() -> None:
    data = load_data([{"messages": chat("a", "b")}], tokenizer=byte_tokenizer(NO_END))
    assert data.notes == ("data: 1 of 1 answers end in no special token: the model is not taught to stop",)


def test_a_template_s_trouble_has_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", {"messages": chat("a", "b")}, {"messages": chat("a", "x</think>b", "c", "d")})
    said = refused(str(path), tokenizer=byte_tokenizer(STRIPS_THINKING))
    assert said.startswith(f"{path}:2: the chat template is not prefix-preserving: ")


# --- refused ---


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "completion" "b"}', "broken JSON at column 30: Expecting ':' delimiter"),
        ('{"prompt": "a\\ud800", "completion": "b"}', "not UTF-8 text: 'utf-8' codec can't encode"),
        ("17", "17 is no example; each line must be an object with columns"),
        ("[", "not one object a line; of a JSON list, jq -c '.[]' FILE makes such lines"),
        ("{", "not one object a line"),
        ('[{"prompt": "a"}]', "not one object a line; of a JSON list, jq -c '.[]' FILE makes such lines"),
        ('{"prompt": "a", "completion": ""}', '"completion" is empty'),
        ('{"prompt": "a", "completion": " \\n"}', '"completion" is empty'),
        ('{"prompt": "a", "completion": 4}', '"completion" is 4; it must be text or a list of messages'),
        ('{"prompt": null, "completion": "b"}', 'no column "prompt"; there are: completion (sft data have'),
        (
            '{"prompt": "a", "answer": "b"}',
            'no column "completion"; there are: answer, prompt (sft data have prompt + completion, or messages, '
            "or text, or prompt_ids + completion_ids)",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path / "d.jsonl", GOOD["sft"], line)
    assert refused(str(path), kind="sft").startswith(f"{path}:2: {said}")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert refused(str(path)).startswith(f"{path}:2: not UTF-8 text: 'utf-8' codec can't decode byte 0xff")


def test_files_that_are_none(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.jsonl", "")
    assert refused(str(empty)) == f"{empty}: no example in it"
    assert refused("missing.jsonl") == "missing.jsonl: no such file"
    assert refused("./missing") == "./missing: no such file"
    table = written(tmp_path / "t.csv", "a,b")
    known = "known: JSON Lines (.jsonl) and Parquet (.parquet)"
    assert refused(str(table)) == f'{table}: a file of unknown kind ".csv"; {known}'
    torn = written(tmp_path / "torn.parquet", "PAR1")
    assert refused(str(torn)).startswith(f"{torn}: not a Parquet file: ")
    (tmp_path / "folder").mkdir()
    assert refused(str(tmp_path / "folder")).startswith(f"{tmp_path}/folder: no such file, and datasets cannot load it")
    assert refused([]) == "data: no example in it"
    assert refused([3]) == "data[0]: 3 is no example; it must be a dict of columns"
    indented = written(tmp_path / "d.json", "[", '{"prompt": "a"}', "]")
    assert (
        refused(str(indented))
        == f"{indented}:1: not one object a line; of a JSON list, jq -c '.[]' FILE makes such lines"
    )


LAYOUTS = [
    (
        "sft",
        {"instruction": "Add", "input": "2+2", "output": "4"},
        'this looks like alpaca\'s layout; rename instruction + "\\n" + input → prompt, output → completion',
    ),
    (
        "sft",
        {"instruction": "Add 2+2", "output": "4"},
        "this looks like alpaca's layout; rename instruction → prompt, output → completion",
    ),
    (
        "sft",
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "this looks like sharegpt's layout; rename conversations → messages, from → role (human → user, gpt → "
        "assistant), value → content",
    ),
    (
        "sft",
        {"prompt": chat("a"), "data_source": "gsm8k", "reward_model": {"style": "rule", "ground_truth": "4"}},
        "this looks like verl's layout; it has prompts and no completions: good for grpo, with "
        "reward_model.ground_truth → answer",
    ),
    ("sft", {"input": "a", "output": "b"}, "rename input → prompt, output → completion"),
    (
        "prompt",
        {"input": "a", "label": "b"},
        "this looks like openrlhf's layout; rename input → prompt, label → answer",
    ),
    ("prompt", {"question": "a", "answer": "b"}, "this looks like GSM8K's layout; rename question → prompt"),
    ("prompt", {"messages": chat("a", "b")}, "rename messages → prompt, without the last answer"),
    ("sft", {"prompt": "a", "chosen": "b", "rejected": "c"}, "this looks like TRL's pairs; rename chosen → completion"),
    (
        "preference",
        {"conversations": [], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
        "this looks like sharegpt's layout; rename conversations → prompt",
    ),
    ("preference", {"question": "a", "chosen": "b", "rejected": "c"}, '"question"; rename question → prompt'),
    (
        "sft",
        {"messages": [{"from": "human", "value": "a"}]},
        'message 1 of "messages" is in sharegpt\'s form; rename from → role (human → user, gpt → assistant), value → '
        "content",
    ),
]


@pytest.mark.parametrize(("kind", "example", "said"), LAYOUTS)
def test_other_libraries_layouts_are_told_how_to_rename(kind: str, example: dict[str, Any], said: str) -> None:
    assert said in refused([example], kind=kind)


def test_verl_prompts_load_with_a_note() -> None:
    row = {"prompt": chat("a"), "data_source": "x", "reward_model": {"ground_truth": "4"}}
    assert load_data([row], kind="prompt").notes == (
        'data: no column "answer"; this looks like verl\'s layout; rename reward_model.ground_truth → answer',
    )


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (
            "sft",
            {"completion": chat("", "b")[1:]},
            '"prompt" is text and "completion" is a list of messages; write both alike',
        ),
        (
            "sft",
            {"prompt": chat("a")},
            '"prompt" is a list of messages and "completion" is text; write completion as [{"role": "assistant", '
            '"content": …}]',
        ),
        (
            "sft",
            {"prompt": chat("a", "b"), "completion": chat("", "b")[1:]},
            '"prompt" ends in a message of the assistant; what is learnt belongs to the completion',
        ),
        ("sft", {"messages": chat("a")}, '"messages" has no message of the assistant: there is nothing to learn'),
        (
            "sft",
            {"messages": chat("a", "b")[1:]},
            '"messages" begins with the assistant; put what it answers before it',
        ),
        ("sft", {"messages": chat("a", "")}, 'message 2 of "messages" is empty'),
        ("sft", {"messages": []}, '"messages" is an empty list; it must be a list of messages'),
        ("sft", {"messages": ["a"]}, 'message 1 of "messages" is the text \'a\'; it must be {"role": …, "content": …}'),
        ("sft", {"messages": [{"content": "a"}]}, 'message 1 of "messages" has no "role"; it has: content'),
        (
            "sft",
            {"messages": [{"role": "user", "content": 3}]},
            'the content of message 1 of "messages" is 3; it must be text',
        ),
        ("prompt", {"prompt": ""}, '"prompt" is empty'),
        ("preference", {"margin": "big"}, "\"margin\" is the text 'big'; it must be a finite number"),
        ("preference", {"margin": float("nan")}, '"margin" is nan; it must be a finite number'),
        ("preference", {"chosen": ""}, '"chosen" is empty'),
        (
            "preference",
            {"chosen": chat("a", "b")},
            '"chosen" and "rejected" must both be text or both be lists of messages',
        ),
        (
            "preference",
            {"chosen": chat("a", "b"), "rejected": chat("a", "c")},
            '"prompt" is text that the messages of "chosen" and "rejected" do not begin with',
        ),
        (
            "preference",
            {"prompt": None, "chosen": chat("a", "b"), "rejected": chat("x", "c")},
            'no column "prompt", and "chosen" and "rejected" do not begin with the same messages',
        ),
        ("process", {"labels": [True]}, '"labels" is a list of 1 for 2 completions; it must be a list with one a step'),
        ("process", {"labels": [True, 3]}, '"labels[1]" is 3; it must be true or false'),
        ("process", {"completions": "a"}, "\"completions\" is the text 'a'; it must be a list of texts, one a step"),
        ("process", {"completions": ["a", ""]}, 'step 2 of "completions" is empty'),
        ("outcome", {"label": "good"}, "\"label\" is the text 'good'; it must be true or false"),
    ],
)
def test_what_is_wrong_with_an_example_is_said(kind: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check({**GOOD[kind], **change}, kind)
    assert str(caught.value) == said


def test_token_ids_are_checked() -> None:
    for bad, told in (([], '"completion_ids" is empty'), ([1, -2], '"completion_ids" is a list; it must be')):
        assert told in refused([{"prompt_ids": [1], "completion_ids": bad}], kind="sft")


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    assert refused([GOOD["sft"]], kind="stf") == 'unknown kind of data "stf"; did you mean sft?'


def test_columns_that_say_nothing_are_refused() -> None:
    with pytest.raises(UserError, match='^no columns "prompt" and "completion"; there are: foo '):
        infer_kind(["foo"])


def test_a_prompt_that_begins_both_conversations_is_cut_off() -> None:
    pair = {"prompt": chat("a"), "chosen": chat("a", "b", "c", "d"), "rejected": chat("a", "b", "c", "e")}
    prompt, chosen, _ = parts_of_pair(pair)
    assert (prompt, chosen) == (chat("a"), chat("a", "b", "c", "d")[1:])
    without = {name: pair[name] for name in ("chosen", "rejected")}
    assert parts_of_pair(without)[0] == chat("a", "b", "c")


# --- order ---


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31), st.lists(st.integers(0, 40), max_size=8))
def test_an_order_is_a_permutation_each_epoch_however_it_is_taken(length: int, seed: int, chunks: list[int]) -> None:
    order = [Order(length, seed)[k] for k in range(3 * length)]
    for epoch in range(3):
        assert sorted(order[epoch * length : (epoch + 1) * length]) == list(range(length))
    cursor = Cursor(Order(length, seed))
    taken = [index for n in chunks for index in cursor.take(n)]
    again = Order(length, seed)
    assert taken == [again[k] for k in range(len(taken))]


def test_epochs_and_seeds_differ() -> None:
    order = [Order(100, 0)[k] for k in range(200)]
    assert order[:100] != order[100:]
    assert order[:100] != [Order(100, 1)[k] for k in range(100)]


def test_the_order_of_a_seed_stays_what_it_is() -> None:
    assert [Order(8, 0)[k] for k in range(16)] == PINNED


PINNED = [4, 7, 6, 1, 3, 0, 5, 2, 5, 4, 2, 1, 0, 7, 3, 6]


def test_a_cursor_goes_on_in_the_middle() -> None:
    first = Cursor(Order(7, 3), "abc")
    first.take(10)
    kept = json.loads(json.dumps(first.state()))
    second = Cursor(Order(7, 3), "abc")
    second.restore(kept)
    assert second.epochs == pytest.approx(10 / 7)
    assert second.take(9) == first.take(9)


@pytest.mark.parametrize(
    ("order", "digest", "said"),
    [
        (Order(8, 3), "abc", "the data are not the run's: length is 8, it was 7"),
        (Order(7, 4), "abc", "the data are not the run's: seed is 4, it was 3"),
        (Order(7, 3), "abd", "the data are not the run's: digest is abd, it was abc"),
    ],
)
def test_a_cursor_refuses_other_data(order: Order, digest: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        Cursor(order, digest).restore(Cursor(Order(7, 3), "abc").state())
    assert str(caught.value) == said


def test_an_order_needs_an_example() -> None:
    with pytest.raises(ValueError, match="length is 0"):
        Order(0, 0)
    with pytest.raises(IndexError, match="k is -1"):
        Order(3, 0)[-1]


def test_examples_are_a_sequence() -> None:
    data = load_data([{"prompt": "a"}, {"prompt": "b"}])
    assert isinstance(data, Examples)
    assert data[-1] == {"prompt": "b"}
