from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from advantage.errors import UserError
from advantage.runs.database import Database
from advantage.trajectory import Rollout, Sample
from advantage.views.report import write_report
from tests.views.synthetic import episodes, make_run

NAN, INF = math.nan, math.inf
VOID = {"meta"}


class Structure(HTMLParser):
    """Elements, attributes and text of a page; an element that is closed out of turn fails."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    document = path.read_text(encoding="utf-8")
    structure = Structure(document)
    assert not structure.tags & {"script", "img", "iframe", "link", "object", "base", "form"}
    assert not any(name.startswith("on") or name in {"src", "href"} for name in structure.attributes)
    coordinates = re.findall(r' d="([^"]*)"', document) + re.findall(r'style="(?:top|left):([^"]*)"', document)
    assert not re.search("nan|inf", "".join(coordinates))
    return document


def words(run: Path) -> str:
    """What a reader sees."""
    body = report(run).partition("<body>")[2].partition("</body>")[0]
    return re.sub(r"\s+", " ", " ".join(Structure(body).words))


def row(**changes: float) -> dict[str, float]:
    return {"train/approx_kl": 0.01, "train/entropy": 0.6, "rollout/ep_rew_mean": 20.0, **changes}


def evaluated(mean: float, std: float = 1.0) -> dict[str, float]:
    return {**row(), "eval/mean_reward": mean, "eval/std_reward": std, "eval/mean_ep_length": 33.0}


def test_the_headline_is_the_last_evaluation_and_its_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [evaluated(480.0), row(), evaluated(450.5, 12.25)])
    seen = words(run)
    assert (
        "The policy returns 450.5 ± 12.25 on held-out episodes (mean ± standard deviation), 480 at its best. "
        "It trained for 300 environment steps in 6 s and finished."
    ) in seen
    assert "None was made" not in seen
    document = report(run)
    best = re.search(r'<tr class="marked">(.*?)</tr>', document)
    assert best and "480" in best[1] and "best" in best[1]


def test_without_evaluation_the_headline_is_the_last_hundred_episodes(tmp_path: Path) -> None:
    first, last = episodes(*[1.0] * 100, *[5.0] * 50), episodes(*[9.0] * 50, *[11.0] * 50)
    run = make_run(tmp_path / "run", [row(), row()], finished={1: first, 2: last}, state="stopped", total=1000)
    seen = words(run)
    assert "The last 100 training episodes returned 10 on average, the first 100 1." in seen
    assert "It trained for 200 of 1,000 environment steps in 4 s and was stopped" in seen
    assert "None was made. With --eval-every N" in seen


def test_few_episodes_are_counted_as_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row()], finished={1: episodes(1.0, 2.0)})
    assert "The last 2 training episodes returned 1.5 on average." in words(run)


def test_a_killed_run_without_episodes_evaluation_or_checkpoint(tmp_path: Path) -> None:
    seen = words(make_run(tmp_path / "run", [{"train/approx_kl": 0.01}], state="running", total=500))
    assert "No episode has finished and nothing was evaluated yet" in seen
    assert "100 of 500 environment steps in 2 s and was killed: advantage resume continues it" in seen
    assert "nothing finite to draw" in seen and "Not known yet" in seen


def test_a_run_that_never_began(tmp_path: Path) -> None:
    assert "The run has completed no update." in words(make_run(tmp_path / "run", state=None))


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    events = [(2, "stop", "non_finite", "reward is nan at step 150 of environment 3")]
    run = make_run(tmp_path / "run", [row()], events=events, state="failed", error="reward is nan at step 150")
    seen = words(run)
    assert "and failed: reward is nan at step 150." in seen
    assert "non_finite, update 2 (step 100): reward is nan at step 150 of environment 3" in seen


def test_values_that_are_not_finite_are_gaps_with_a_mark(tmp_path: Path) -> None:
    rows = [row(), row(**{"train/entropy": NAN}), row(**{"train/entropy": INF, "rollout/ep_rew_mean": -INF}), row()]
    rows += [{**evaluated(1.0), "eval/mean_reward": NAN, "eval/std_reward": NAN}]
    run = make_run(tmp_path / "run", rows, finished={1: episodes(NAN, INF, 3.0)})
    document, seen = report(run), words(run)
    assert "2 values are not finite (first: nan at 200)" in seen
    assert document.count('class="mark"') == 4  # two of the entropy, the training return's and the evaluation's
    assert "nan" in seen  # the evaluation in its table


def test_everything_of_others_is_escaped(tmp_path: Path) -> None:
    hostile = """</style></script><script>alert(1)</script><img src=x onerror="alert('x')">"""
    run = make_run(
        tmp_path / "run",
        [{**row(), hostile: 1.0}],
        target=hostile,
        settings={"env_args": {"mode": hostile}},
        events=[(1, "warn", hostile, hostile)],
        state="failed",
        error=hostile,
    )
    document = report(run)  # its own checks find no element or attribute that the library does not write
    assert document.count("<script") == 0 and document.count("</style>") == 1
    assert words(run).count("alert(1)") >= 6


def test_no_network_and_no_script_may_be_reached(tmp_path: Path) -> None:
    document = report(make_run(tmp_path / "run", [row()]))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in document
    assert "unsafe-eval" not in document and not re.search(r"url\(|@import|https?://", document)


def test_calibration_says_how_far_the_critic_is_off(tmp_path: Path) -> None:
    """γ = 0: the returns are the rewards 0 and 2; the critic says 1 above each."""
    shape = (1, 4)
    rewards = torch.tensor([[0.0, 2.0, 0.0, 2.0]])
    rollout = Rollout(
        context=torch.zeros(*shape, 1),
        actions=torch.zeros(shape),
        mask=torch.ones(shape, dtype=torch.bool),
        terminated=torch.zeros(shape, dtype=torch.bool),
        truncated=torch.zeros(shape, dtype=torch.bool),
        rewards=rewards,
        values=rewards + 1.0,
        next_values=torch.zeros(shape),
    )
    run = make_run(tmp_path / "run", [row()], settings={"gamma": 0.0}, rollout=rollout)
    seen = words(run)
    assert "Over the 4 steps collected in update 1 the returns are 1 ± 1." in seen
    assert "The critic is off by 1 (root mean square), on average 1 too high." in seen
    assert "It explains 100% of the variance of the returns." in seen
    worse = make_run(tmp_path / "worse", [row()], settings={"gamma": 0.0}, rollout=rollout.replace(values=-rewards))
    assert "worse than a constant (explained variance −3)" in words(worse)
    without = make_run(tmp_path / "without", [row()], rollout=rollout.replace(values=None))
    assert "there is no critic to look at" in words(without)


def test_settings_that_differ_from_the_default_come_first(tmp_path: Path) -> None:
    settings = {"gamma": 0.5, "network": [64, 64], "learning_rate": "lin_1e-3", "env_args": {"continuous": True}}
    document = report(make_run(tmp_path / "run", [row()], settings=settings))
    shown, folded = document[: document.index("<details>")], document[document.index("<details>") :]
    for name in ("gamma", "learning_rate", "env_args"):
        assert f"<code>{name}</code>" in shown
    assert "<code>network</code>" in folded and "1 settings at their default" in folded
    assert "<code>0.5</code>" in shown and "<code>0.99</code>" in shown


def test_an_algorithm_that_is_not_known_here_still_has_a_report(tmp_path: Path) -> None:
    seen = words(make_run(tmp_path / "run", [{"reward": 0.25, "kl": 0.1}], algorithm="later", language=True))
    assert "The last update's mean reward is 0.25. It trained for 1 updates" in seen


LANGUAGE: dict[str, Any] = {"algorithm": "grpo", "target": "tiny", "language": True}
GIVEN: dict[str, Any] = {"task": "sort", "eval_episodes": 50, "batch_size": 4}
ASKED = {**GIVEN, "num_generations": 2}


def test_a_language_run_speaks_of_rewards_accuracy_and_updates(tmp_path: Path) -> None:
    rows = [{"reward": 0.1, "eval/mean_reward": 0.4, "num_tokens": 90.0}, {"reward": 0.3, "eval/mean_reward": 0.2}]
    run = make_run(tmp_path / "run", rows, settings=ASKED, **LANGUAGE)
    seen = words(run)
    assert "grpo on tiny sort, seed 0" in seen
    assert "The model answers 20.0% of 50 held-out prompts rightly (95 % interval 11.2% … 33.0%), 40.0% at its" in seen
    assert "2 updates in 4 s" in seen and "4 prompts × 2 each" in seen
    assert "40.0% 27.6% … 53.8% 50 best" in seen  # Wilson's interval of 20 in 50
    for word in ("return", "episode", "steps", "environment", "critic"):
        assert word not in seen.split("Settings")[0].lower()


def test_without_evaluation_the_first_and_the_last_updates_are_told(tmp_path: Path) -> None:
    losses = [{"train/loss": 2.0}] * 10 + [{"train/loss": 1.0}] * 10
    seen = words(make_run(tmp_path / "run", losses, settings=GIVEN, **{**LANGUAGE, "algorithm": "sft"}))
    assert "The loss of the last 10 updates is 1, of the first 10 2." in seen
    assert "Nothing is sampled in this training. What the model writes now: advantage generate" in seen
    seen = words(make_run(tmp_path / "short", losses[:3], settings=GIVEN, **{**LANGUAGE, "algorithm": "sft"}))
    assert "The last update's loss is 2." in seen


def test_completions_gold_and_reward_functions_are_shown(tmp_path: Path) -> None:
    row = {"reward": 0.1, "gold": 0.2, "rewards/format/mean": 0.3, "rewards/task/mean": 0.1, "completions/draws": 1.0}
    samples = {update: [Sample(0, 0, "sort 2 1", f"said {update}", 1.0, "stop")] for update in (1, 2)}
    rows = [row, {**row, "reward": 0.5, "rewards/format/mean": 0.9}]
    seen = words(make_run(tmp_path / "run", rows, settings=ASKED, samples=samples, **LANGUAGE))
    assert "Completions before and after" in seen and "said 1" in seen and "said 2" in seen
    assert "only watched (gold)" in seen and "format" in seen
    assert "numbers that never changed" in seen and "completions/draws" in seen


def test_a_reward_model_s_page_shows_how_sure_it_may_be_and_what_length_does(tmp_path: Path) -> None:
    rows = [{"rewards/accuracies": 0.5, "rewards/margins": 0.1, "train/loss": 0.7}] * 2
    sides = [("aa", 1.0, "chosen"), ("b", 2.0, "rejected")]
    samples = {2: [Sample(0, i, "q", text, score, side) for i, (text, score, side) in enumerate(sides)]}
    settings = {"batch_size": 4, "eval_episodes": 50}
    run = make_run(
        tmp_path / "run", rows, settings=settings, samples=samples, **{**LANGUAGE, "algorithm": "reward_model"}
    )
    seen = words(run)
    assert "How sure the scores may be" in seen and "Score and length" in seen and "score 2 · rejected" in seen
    assert "Held-out evaluation" not in seen and "4 pairs each" in seen


def test_metrics_that_no_chart_names_are_drawn_too(tmp_path: Path) -> None:
    assert "mine/speed" in words(make_run(tmp_path / "run", [{"mine/speed": 1.0}]))


def test_attempts_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [row(), row()])
    Database(run / "metrics.sqlite", 1, {"torch": "9.9"}).close()
    seen = words(run)
    assert "update 1" in seen and "torch 9.9" in seen


def test_a_long_run_has_a_small_page(tmp_path: Path) -> None:
    rows = [row(**{"train/entropy": float(i)}) for i in range(3000)]
    run = make_run(tmp_path / "run", rows, finished={i: episodes(1.0, 2.0) for i in range(1, 3001)})
    assert len(report(run)) < 200_000
    assert "1,500 of 6,000 episodes" in words(run)


def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no such run"):
        write_report(tmp_path / "nothing")
    run = make_run(tmp_path / "run", [row()])

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("advantage.runs.durable.rename", refuse)
    with pytest.raises(UserError, match=r"report\.html: cannot be written: No space left on device"):
        write_report(run)
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
