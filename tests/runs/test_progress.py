import io
import sys

import pytest

from advantage.runs import progress as module
from advantage.runs.progress import Bar, Lines, Silent, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(shown):
    shown.start(0, 1000)
    shown.draw(500, {}, 250.0)
    shown.draw(750, {"rollout/ep_rew_mean": 21.25}, 250.0)
    shown.line("warn: [red]text[/red] \x1b[2J of others")
    shown.stop()


def test_plain_lines_where_there_is_no_terminal(capsys):
    shown = progress(quiet=False)
    assert isinstance(shown, Lines)
    show(shown)
    out, err = capsys.readouterr()
    assert out == ""
    said = ["warn: [red]text[/red] ?[2J of others", "step 750 of 1,000  return 21.25  250 steps/s  0:01 left"]
    assert err.splitlines() == said


def test_lines_come_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    shown = Lines()
    shown.start(0, 1000)
    shown.draw(500, {}, 250.0)
    assert capsys.readouterr().err == "step 500 of 1,000  250 steps/s  0:02 left\n"


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = progress(quiet=False)
    assert isinstance(shown, Bar)
    show(shown)
    text = sys.stderr.getvalue()
    assert "750/1000" in text and "return 21.25" in text and "250 steps/s" in text and "0:01 left" in text
    assert "[red]text[/red] ?[2J" in text and "\x1b[2J" not in text


def test_quiet(capsys):
    shown = progress(quiet=True)
    assert isinstance(shown, Silent)
    show(shown)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("speed", [0.0, 1e-9])
def test_no_speed_yet(capsys, speed):
    Lines().draw(0, {}, speed)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"reward": 0.25, "train/loss": 1e-8}, "reward 0.25"),
        ({"rewards/accuracies": 0.75, "train/loss": 0.5}, "accuracy 0.75"),
        ({"train/loss": 0.5}, "loss 0.5"),
    ],
)
def test_a_language_run_counts_updates_and_tells_what_it_is_judged_by(capsys, row, told):
    shown = progress(quiet=False, clock="updates")
    shown.start(0, 20)
    shown.draw(12, row, 0.4)
    shown.stop()
    assert capsys.readouterr().err == f"update 12 of 20  {told}  0.4 updates/s  0:20 left\n"
