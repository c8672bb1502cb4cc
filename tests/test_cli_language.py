"""The command line with language models: what each command prints, and each mistake in one line."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import advantage
from advantage.algorithms import ALGORITHMS, grpo
from advantage.cli import main

QUICK = ["--quiet", "--set", "threads=1", "--set", "batch_size=4", "--checkpoint-every", "0"]
PROMPTS = [{"prompt": f"{i}+{i + 1}=", "answer": str(2 * i + 1)} for i in range(31, 51)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run of grpo on `tiny`."""
    path = tmp_path_factory.mktemp("language") / "run"
    evaluated = ["--eval-every", "1", "--set", "eval_episodes=5"]
    assert (
        main(["train", "grpo", "tiny", "--task", "add", "--run-dir", str(path), "--steps=2", *evaluated, *QUICK]) == 0
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with one file of prompts beside it."""
    write(tmp_path / "prompts.jsonl", PROMPTS)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


MISTAKES = {
    "no folder": (["train", "grpo", "./nowhere", "--task", "add"], "./nowhere: no such folder"),
    "misspelt": (["train", "grpo", "tinny", "--task", "add"], "did you mean tiny"),
    "empty folder": (["train", "sft", ".", "--task", "add"], ". is not a model: it has no config.json"),
    "nothing to ask": (["train", "sft", "tiny", "--data", "a.jsonl", "--eval-every", "1"], "no task is given whose"),
    "long name": (["train", "grpo", "x" * 300, "--task", "add"], "no such folder"),
    "long name to hear": (["generate", "x" * 300, "--prompt", "a"], "no such folder"),
    "task": (["train", "grpo", "tiny", "--task", "ad"], "did you mean add"),
    "nothing": (["train", "grpo", "tiny"], "--data"),
    "no file": (["train", "grpo", "tiny", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    "module": (["train", "grpo", "tiny", "--task", "add", "--reward", "nowhere:f"], "'nowhere' cannot be imported"),
    "signature": (["train", "grpo", "tiny", "--task", "add", "--reward", "os.path:join"], "expected f(prompts"),
    "reward": (["train", "grpo", "tiny", "--task", "add", "--reward", "exakt"], "did you mean exact"),
    "no reward there": (["train", "sft", "tiny", "--task", "add", "--reward", "exact"], "sft takes no --reward"),
    "group": (["train", "grpo", "tiny", "--task", "add", "--set", "num_generations=1"], "num_generations is 1"),
    "parted": (["train", "dapo", "tiny", "--task", "add", "--set", "minibatch_size=4"], "below num_generations 8"),
    "others": (["train", "rloo", "tiny", "--task", "add", "--set", "num_generations=1"], "num_generations is 1"),
    "beta": (["train", "grpo", "tiny", "--task", "add", "--set", "beta=-1"], "beta is -1"),
    "env": (["train", "grpo", "tiny", "--task", "add", "--env", "a=1"], "--env is for environments"),
    "twice": (["train", "grpo", "tiny", "--task", "add", "--set", "task=copy"], "given twice"),
    "dry folder": (["train", "grpo", "./nowhere", "--task", "add", "--dry-run"], "./nowhere: no such folder"),
    "dry task": (["train", "grpo", "tiny", "--task", "ad", "--dry-run"], "did you mean add"),
    "top_p": (["generate", "tiny", "--prompt", "1+1=", "--top-p", "2"], "top_p is 2"),
    "temperature": (["generate", "tiny", "--prompt", "1+1=", "--temperature", "warm"], "'warm'"),
    "long": (["generate", "tiny", "--prompt", "1+1=" * 200], "exceeds the model's context"),
    "no model": (["generate", "./nowhere", "--prompt", "a"], "./nowhere: no such folder"),
    "fetch": (["models", "fetch", "smollm"], "did you mean smollm2-135m"),
    "shipped": (["models", "fetch", "tiny"], "needs no fetching"),
    "no data": (["data", "show", "--model", "tiny"], "needs a file and the model"),
    "data": (["data", "show", "nowhere.jsonl", "--model", "tiny"], "nowhere.jsonl: no such file"),
    "suffix": (["label", "tiny", "--task", "add", "--out", "pairs.csv"], "pairs.csv"),
    "judge": (["label", "tiny", "--task", "add", "--out", "p.jsonl", "--by", "nobody"], "unknown reward 'nobody'"),
    "no prompts": (["label", "tiny", "--out", "p.jsonl", "--by", "task"], "--task"),
    "no place": (["label", "tiny", "--task", "add", "--out", "no/p.jsonl", "--by", "task"], "no/p.jsonl"),
    "eval": (["eval", "tiny"], "--task"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing(
    arguments: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--set", "threads=1"] if arguments[0] == "train" else []
    assert main([*arguments, *extra]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("advantage: ") and told in error
    assert list(folder.iterdir()) == []


def test_flags_fill_the_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", "p.jsonl", "--task", "add", "--gold", "exact", "--trust-remote-code"]
    rewards = ["--reward", r"regex:\d{1,2}*0.5", "--reward", "exact"]
    assert main(["train", "grpo", "tiny", *given, *rewards, "--dry-run", "--json"]) == 0
    settings = answered(capsys)["settings"]
    assert settings["data"] == "p.jsonl" and settings["task"] == "add" and settings["gold"] == "exact"
    assert settings["trust_remote_code"] is True
    from advantage.language.rewards import split_specs

    assert split_specs(settings["rewards"]) == [r"regex:\d{1,2}*0.5", "exact"]
    assert list(folder.iterdir()) == []


def test_one_completion_is_enough_where_the_baseline_is_no_group(capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--task", "add", "--set", "num_generations=1", "--dry-run"]
    assert main(["train", "reinforce_pp", "tiny", *one]) == 0
    for name in ("dr_grpo", "dapo", "gspo", "cispo"):
        assert main(["train", name, "tiny", *one]) == 2
        assert f"{name} compares" in capsys.readouterr().err


def test_a_run_directory_that_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "grpo", "tiny", "--task", "add", "--run-dir", str(run)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_prompts_that_leave_no_room_for_an_answer_are_left_out_and_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"prompt": "1+1=" * 127, "answer": "2"}  # 508 tokens; tiny has a context of 512
    write(folder / "long.jsonl", [long])
    write(folder / "mixed.jsonl", [*PROMPTS, long])
    arguments = ["--run-dir", "run", "--reward", "exact", *QUICK, "--set", "batch_size=1", "--steps", "2"]
    arguments += ["--set", "max_completion_length=5"]
    assert main(["train", "grpo", "tiny", "--data", "long.jsonl", *arguments]) == 2
    assert "all 1 examples are longer than 507 tokens" in capsys.readouterr().err
    assert not (folder / "run").exists()
    assert main(["train", "grpo", "tiny", "--data", "mixed.jsonl", *arguments]) == 0
    assert any("507 tokens" in event["text"] for event in advantage.load(folder / "run").reader.events())


def test_the_stages_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "--stages", "--json"]) == 0
    rows = {row["name"]: row["stages"] for row in answered(capsys)["algorithms"]}
    assert set(rows) == {"grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo"}
    assert list(rows["grpo"]) == list(vars(grpo.STAGES))
    assert set(rows["dapo"]) == {"collect", "shape", "keep", "reduce"}
    assert rows["gspo"] == {"ratio": {"function": "sequence_ratio", "meaning": rows["gspo"]["ratio"]["meaning"]}}
    assert all(it["meaning"].endswith(".") for stages in rows.values() for it in stages.values())
    assert main(["algorithms", "--stages"]) == 0
    assert "until_groups_have_spread" in capsys.readouterr().out


def test_algorithms_names_the_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, entry.world] for name, entry in ALGORITHMS.items()]


def test_the_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tasks", "--json"]) == 0
    assert {"add", "mix", "gym:chain_sum", "movie-snippets"} <= {row["name"] for row in answered(capsys)}


def test_help_of_an_algorithm_imports_no_transformers() -> None:
    script = (
        "import sys; from advantage.cli import main\n"
        "assert main(['train', 'grpo', 'tiny', '--help']) == 0\n"
        "assert not {'transformers', 'peft', 'datasets', 'reasoning_gym'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "num_generations" in found.stdout


def test_generate_prints_what_the_policy_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run), "--prompt", "12+34=", "--seed", "3", "--json"]) == 0
    text, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["text"] == text == advantage.load(run).policy.generate("12+34=", seed=3)
    assert main(["generate", "tiny", "--prompt", "copy abc", "--plain", "--max-tokens", "2", "--temperature=0"]) == 0


def test_generate_streams_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", lambda text: written.append(text) or len(text))
    assert main(["generate", "tiny", "--prompt", "copy abcd", "--temperature", "0"]) == 0
    assert len([piece for piece in written if piece.strip()]) > 1


def test_eval_prints_what_scripts_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--episodes", "8", "--json"]) == 0
    found = answered(capsys)
    assert set(found) == {"task", "accuracy", "low", "high", "prompts"} and found["prompts"] == 8
    assert found["low"] <= found["accuracy"] <= found["high"] and found["task"] == "add"
    assert main(["eval", str(run), "--json", "--checkpoint", "best"]) == 0
    assert answered(capsys)["prompts"] == 5  # eval_episodes of the run
    assert main(["eval", str(run), "--task", "copy", "--episodes", "4", "--samples", "3", "--json"]) == 0
    found = answered(capsys)
    assert found["task"] == "copy" and 0 <= found["pass@1"] <= found["pass@3"] <= 1


def test_eval_of_two_on_the_same_prompts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--compare", str(run), "--episodes", "6", "--json"]) == 0
    found = answered(capsys)
    assert found["p_value"] == 1.0 and found["won"] == found["lost"] == 0
    assert found["compare"]["accuracy"] == found["accuracy"]
    assert main(["eval", str(run), "--compare", "tiny", "--episodes", "6", "--json"]) == 0
    found = answered(capsys)
    assert found["won"] - found["lost"] == round(6 * (found["accuracy"] - found["compare"]["accuracy"]))
    assert main(["eval", "tiny", "--task", "add", "--episodes", "6", "--json"]) == 0
    assert answered(capsys)["accuracy"] == found["compare"]["accuracy"]
    for arguments, told in ((["--video", "a.gif"], "--video"), (["--checkpoint", "9"], "no checkpoint 9")):
        assert main(["eval", str(run), *arguments]) == 2
        assert told in capsys.readouterr().err


def test_data_show_prints_tokens_and_marks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "sft.jsonl", [{"prompt": "1+2=", "completion": "3"}])
    assert main(["data", "show", "sft.jsonl", "--model", "tiny", "--json"]) == 0
    text, last = capsys.readouterr().out.rsplit("\n", 2)[0:2]
    assert "●  3" in text and "EOS" in text
    assert json.loads(last) == {"file": "sft.jsonl", "kind": "sft", "examples": 1, "notes": []}


def test_label_by_the_task_writes_pairs_that_dpo_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["label", "tiny", "--task", "add", "--by", "task", "--out", "pairs.jsonl"]
    assert main([*arguments, "--pairs", "20", "--json"]) == 0
    found, rows = answered(capsys), read(folder / "pairs.jsonl")
    assert found["pairs"] == len(rows) > 0 and found["pairs"] + found["ties"] + found["skipped"] == 20
    for row in rows:
        left, right = row["prompt"][0]["content"].rstrip("=").split("+")
        assert row["chosen"] == [{"role": "assistant", "content": str(int(left) + int(right))}] != row["rejected"]
    before = (folder / "pairs.jsonl").read_bytes()
    assert main(arguments) == 2
    assert "pairs.jsonl exists" in capsys.readouterr().err and (folder / "pairs.jsonl").read_bytes() == before
    assert main(["train", "dpo", "tiny", "--data", "pairs.jsonl", "--run-dir", "dpo", "--steps", "1", *QUICK]) == 0
    assert main(["eval", "dpo"]) == 2
    assert "--task" in capsys.readouterr().err


def test_label_by_a_person(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nwhat\nb\nskip\nquit\n"))
    arguments = ["label", "tiny", "--data", "../prompts.jsonl", "--out", "pairs.jsonl", "--max-tokens", "4"]
    assert main([*arguments, "--pairs", "40", "--seed", "1", "--json"]) == 0
    out = capsys.readouterr().out
    found, rows = json.loads(out.splitlines()[-1]), read(folder / "pairs.jsonl")
    assert found["pairs"] == 2 == len(rows) and found["skipped"] == 1
    first, second = (
        [part.split("\n\n[b] ")[0], part.split("\n\n[b] ")[1].split("\n\n")[0]] for part in _pairs(out)[:2]
    )
    assert [rows[0]["chosen"], rows[0]["rejected"]] == first
    assert [rows[1]["rejected"], rows[1]["chosen"]] == second
    assert isinstance(rows[0]["prompt"], str)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main([*arguments[:-3], "none.jsonl"]) == 0
    assert "no pair" in capsys.readouterr().out and not (folder / "none.jsonl").exists()


def _pairs(out: str) -> list[str]:
    return out.split("\n\n[a] ")[1:]


def greater(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    """A reward for the tests: the number that was said; it has none for the completions of one prompt."""
    return [
        None if right == "63" else float("".join(filter(str.isdigit, text)) or 0)
        for text, right in zip(completions, answer, strict=True)
    ]


def test_label_by_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by = ["--by", "tests.test_cli_language:greater", "--max-tokens", "6"]
    assert main(["label", "tiny", "--data", "../prompts.jsonl", "--out", "pairs.jsonl", *by, "--json"]) == 0
    found, rows = answered(capsys), read(folder / "pairs.jsonl")
    assert found["skipped"] == 1 and found["pairs"] + found["ties"] == 19 and found["pairs"] == len(rows) > 3
    sides = [[row[name] for row in rows] for name in ("chosen", "rejected")]
    assert all(a > b for a, b in zip(*(greater(side, [""] * len(side)) for side in sides), strict=True))


def test_label_by_a_reward_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "good.jsonl", [{"prompt": f"{i}+1=", "chosen": str(i + 1), "rejected": "x"} for i in range(4)])
    assert main(["train", "reward_model", "tiny", "--data", "good.jsonl", "--run-dir", "rm", "--steps=2", *QUICK]) == 0
    for name, by in (("a", "rm"), ("b", "rm/policy")):
        assert main(["label", "tiny", "--task", "add", "--by", by, "--out", f"{name}.jsonl", "--pairs", "4"]) == 0
    assert (folder / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()
    assert main(["generate", "rm", "--prompt", "1"]) == 2
    assert "reward model" in capsys.readouterr().err


def test_the_views_of_a_language_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["report", str(run)],
        ["doctor", str(run)],
        ["compare", str(run), "--out", str(tmp_path / "curve.html")],
        ["export", str(run), "--to", "csv", "--out", str(tmp_path / "csv")],
        ["resume", str(run)],
        ["explain", str(run), "--stream", "1"],
    ):
        assert main([*arguments, "--json"]) == 0
        answered(capsys)
    assert main(["runs", str(run.parent), "--json"]) == 0
    assert 0 <= answered(capsys)["runs"][0]["return"] <= 1
    assert main(["runs", str(run.parent)]) == 0
    assert re.search(r"finished .* [\d.]+ reward\n", capsys.readouterr().out)


def test_a_control_run_is_no_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "run")
    short = ["--steps", "64", "--set", "num_steps=8", "--set", "minibatch_size=64", "--quiet"]
    assert main(["train", "ppo", "CartPole-v1", "--run-dir", path, *short]) == 0
    capsys.readouterr()
    for arguments in (["generate", path, "--prompt", "a"], ["data", "show", "x.jsonl", "--model", path]):
        assert main(arguments) == 2
        assert "trains no language model" in capsys.readouterr().err
