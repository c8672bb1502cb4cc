"""The ladder: rungs are settings that differ by what they say, nothing is done twice, what is told is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from advantage.algorithms import module
from advantage.cli import main
from advantage.experiments import ladder, plans
from advantage.experiments.stories import STORIES, Story, settings_of
from advantage.runs.reader import RunReader
from advantage.settings import resolve
from tests.experiments.in_process import Workers, restart_the_count

PARTS = {"five-fixes": 8, "three-variants": 3, "five-notebooks": 7}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    own = Workers()
    monkeypatch.setattr(plans, "work", own)
    monkeypatch.setattr(ladder, "work", own)
    return own


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_rungs_share_all_that_they_do_not_name(story: Story) -> None:
    every = [resolve(module(rung.algorithm).Settings, settings_of(story, rung, "CartPole-v1")) for rung in story.rungs]
    named = {name for rung in story.rungs for name in rung.settings}
    for name in (
        "steps",
        "gamma",
        "learning_rate",
        "network",
        "max_grad_norm",
        "adam_eps",
        "activation",
        "share_trunk",
    ):
        assert len({getattr(settings, name) for settings in every}) == 1 and name not in named
    assert len({rung.name for rung in story.rungs}) == len({rung.label for rung in story.rungs}) == len(story.rungs)


@pytest.mark.parametrize("name", ["five-fixes", "three-variants"])
def test_rungs_run_unnormalised_and_normalisation_is_the_last_one(name: str) -> None:
    normalised = [
        rung.name for rung in STORIES[name].rungs
        if settings_of(STORIES[name], rung, "CartPole-v1")["normalize_advantages"]
    ]  # fmt: skip
    assert normalised == (["normalised"] if name == "five-fixes" else [])


def test_neighbours_of_the_five_fixes_differ_by_one_thing() -> None:
    story = STORIES["five-fixes"]
    differ = []
    for before, rung in zip(story.rungs, story.rungs[1:], strict=False):
        if before.algorithm == rung.algorithm:
            old, new = (settings_of(story, each, "CartPole-v1") for each in (before, rung))
            differ.append((rung.name, {name for name in new if new[name] != old[name]}))
    assert differ == [
        ("reward-to-go", {"psi"}),
        ("baseline", {"baseline"}),
        ("critic", {"baseline"}),
        ("clip", {"eps_low", "eps_high"}),
        ("normalised", {"normalize_advantages"}),
    ]


def test_tuned_settings_have_no_part_in_a_ladder(tmp_path: Path) -> None:
    asked = ladder.prepare("CartPole-v1", "five-fixes", 1, None, {}, tmp_path)
    settings = {each.name: each.plan.settings for each in ladder._experiments(asked)}
    assert settings["clip-s0"].num_envs == 1 and settings["clip-s0"].gamma == 0.99  # tuned.toml has 8 and 0.98
    assert settings["reference-s0"].steps == settings["clip-s0"].steps // 50
    assert settings["reference-s0"].normalize_advantages  # the last rung's


def test_both_action_spaces_where_the_environment_has_them(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    both = ladder.prepare("LunarLander-v3", "five-notebooks", 2, None, {}, tmp_path)
    assert both.arguments == ({}, {"continuous": True}) and both.threshold == 200.0
    names = [each.name for each in ladder._experiments(both)]
    assert len(names) == len(set(names)) == 2 * 2 * 8 and "td-1-s1" in names
    one = ladder.prepare("LunarLander-v3", "five-notebooks", 1, None, {"continuous": True}, tmp_path)
    assert one.arguments == ({"continuous": True},)
    assert ladder.prepare("CartPole-v1", "five-notebooks", 1, None, {}, tmp_path).arguments == ({},)


MISTAKES = {
    "no seeds": (["CartPole-v1", "--seeds", "0"], "--seeds is '0'; it must be a whole number from 1"),
    "no steps": (["CartPole-v1", "--steps", "0"], "--steps"),
    "no workers": (["CartPole-v1", "--workers", "0"], "--workers"),
    "story": (["CartPole-v1", "--story", "five-fixs"], "there is no story 'five-fixs'; did you mean five-fixes?"),
    "far from any": (["CartPole-v1", "--story", "zzz"], "known: five-fixes, five-notebooks, three-variants"),
    "environment": (["CartPoel-v1"], "CartPole-v1"),
    "argument": (["CartPole-v1", "--env", "colour=red"], "colour"),
    "no value": (["CartPole-v1", "--env", "colour"], "NAME=VALUE"),
}


@pytest.mark.parametrize(("words", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ladder", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
    assert list(tmp_path.iterdir()) == []


def test_noise_is_measured_again_where_a_rung_has_begun_since(tmp_path: Path) -> None:
    out, runs = tmp_path / "noise-s0.json", [tmp_path / "gae-s0", tmp_path / "clip-s0"]
    assert ladder.unmeasured(out, runs)
    out.write_text('{"gae-s0": {"scale": 1.0}}')
    assert ladder.unmeasured(out, runs) and not ladder.unmeasured(out, runs[:1])


def test_a_ladder_from_end_to_end(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advantage.control.video.LONGEST", 5)
    out = tmp_path / "out"
    command = ["ladder", "CartPole-v1", "--story", "three-variants", "--seeds", "2", "--steps", "600", "--quiet"]
    command += ["--out", str(out), "--json", "--workers", "1"]
    assert main(command) == 0
    text = capsys.readouterr().out.splitlines()
    found = json.loads(text[-1])
    assert [rung["label"] for rung in found["rungs"]] == ["R(τ)", "reward-to-go", "learned baseline"]
    names = [job.name for job in workers.jobs]
    assert names == [
        *(f"{rung}-s{seed}" for seed in (0, 1) for rung in ("trajectory", "reward-to-go", "baseline", "reference")),
        "noise-s0", "noise-s1",
    ]  # fmt: skip
    for rung in found["rungs"]:
        assert set(rung["returns"]) == set(rung["moved"]) == {"0", "1"} and rung["failed"] == []
        for seed in (0, 1):
            episodes = RunReader(out / f"{rung['name']}-s{seed}").episodes()
            last = [np.mean(episodes["return"][max(0, i - 19) : i + 1]) for i in range(len(episodes["return"]))]
            late = {
                step: value for step, value in zip(episodes["env_steps"], last, strict=True) if step > 540
            }  # fmt: skip
            assert rung["returns"][str(seed)] == pytest.approx(np.mean(list(late.values())))
    assert "Reward-to-go is" in found["rungs"][1]["sentence"] and found["rungs"][1]["sentence"] in "\n".join(text)
    before = ("not distinguishable from", "better than", "worse than")
    assert any(f"Learned baseline is {words} reward-to-go" in found["rungs"][2]["sentence"] for words in before)
    assert len(found["videos"]) == 3 and all(Path(path).read_bytes().startswith(b"GIF") for path in found["videos"])
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    page = (out / "ladder.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3 and "Reward-to-go is" in page and "<script" not in page

    workers.jobs.clear()
    assert main(command) == 0 and workers.jobs == []
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert main([*command, "--steps", "700"]) == 2
    assert "holds another ladder" in capsys.readouterr().err


def test_each_variant_of_an_environment_is_told_by_its_own_runs(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CartPole that pays 1 a step, and CartPole that pays −1 for a fall and nothing else."""
    both = replace(
        STORIES["three-variants"],
        rungs=STORIES["three-variants"].rungs[-2:],
        variants=({}, {"sutton_barto_reward": True}),
        videos=False,
    )
    monkeypatch.setitem(STORIES, "both", both)
    command = ["ladder", "CartPole-v1", "--story", "both", "--seeds", "1", "--steps", "300", "--quiet", "--json"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    plain, _, paid, _ = json.loads(capsys.readouterr().out.splitlines()[-1])["rungs"]
    assert (plain["environment"], paid["environment"]) == ("CartPole-v1", "CartPole-v1 sutton_barto_reward=True")
    assert plain["returns"]["0"] > 5.0 and paid["returns"]["0"] == -1.0
    page = (tmp_path / "out" / "ladder.html").read_text(encoding="utf-8")
    assert "after reward-to-go · CartPole-v1 sutton_barto_reward=True" in page


def test_a_rung_that_breaks_off_is_told(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restart_the_count(monkeypatch)
    monkeypatch.setenv("CRASH_AT", "300")
    command = ["ladder", "tests.test_cli:Crashing-v0", "--story", "three-variants", "--seeds", "1", "--steps", "600"]
    assert main([*command, "--quiet", "--out", str(tmp_path / "out"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "trajectory-s0" in found["failed"] and "1 of its runs broke off" in found["rungs"][0]["sentence"]
    assert any("no video" in note for note in found["notes"]) or found["videos"]
