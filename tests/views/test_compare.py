from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advantage.errors import UserError
from advantage.runs.encode import dumps
from advantage.views.compare import as_json, compare, render, table
from advantage.views.curves import interquartile_mean, stratified_bootstrap
from advantage.views.picture import spread
from tests.views.synthetic import make_run

RETURNS = [10.0, 20.0, 30.0, 40.0, 200.0]


def seeds(folder: Path, name: str, finals: list[float], **others: Any) -> list[Path]:
    """A run a seed, whose training return climbs from 0 to its final one in ten updates."""
    return [make_run(folder / f"{name}-{seed}", climb(final), seed=seed, **others) for seed, final in enumerate(finals)]


def climb(final: float, updates: int = 10) -> list[dict[str, float]]:
    return [{"rollout/ep_rew_mean": final * i / (updates - 1)} for i in range(updates)]


def test_a_row_by_hand(tmp_path: Path) -> None:
    comparison = compare(seeds(tmp_path, "a", RETURNS))
    (row,) = comparison.rows
    assert (row.environment, row.label, row.seeds, row.steps) == ("CartPole-v1", "ppo", (0, 1, 2, 3, 4), 1000)
    assert (row.mean, row.iqm, row.evaluation) == (60.0, 30.0, None)
    assert row.low is not None and row.high is not None and 10.0 <= row.low < 30.0 < row.high <= 200.0
    assert comparison.caption == "IQM over 5 seeds, 95 % stratified bootstrap"
    assert comparison.notes == ()


def test_the_curve_is_the_iqm_at_every_step_and_its_band_draws_whole_runs(tmp_path: Path) -> None:
    panel, _ = compare(seeds(tmp_path, "a", RETURNS)).panels
    band = panel.bands["ppo"]
    np.testing.assert_array_equal(band.steps, np.arange(100, 1001, 100))
    scores = np.array(RETURNS)[:, None] * np.linspace(0, 1, 10)
    np.testing.assert_allclose(band.centre, interquartile_mean(scores, axis=0))
    expected = stratified_bootstrap([scores], interquartile_mean, 2000, 0.95, np.random.default_rng(0))
    np.testing.assert_allclose([band.low, band.high], expected)


def test_a_group_is_the_same_whatever_it_is_compared_with(tmp_path: Path) -> None:
    first = seeds(tmp_path, "a", RETURNS)
    other = seeds(tmp_path, "b", [1.0, 2.0, 3.0], algorithm="a2c")
    alone, together = compare(first), compare([*other, *first])
    assert alone.rows[0] == together.rows[1]
    assert together.caption == "IQM over 3 to 5 seeds (of fewer than four the mean), 95 % stratified bootstrap"


def test_groups_are_named_by_what_differs_within_their_algorithm(tmp_path: Path) -> None:
    runs = [
        *seeds(tmp_path, "low", [1.0, 2.0], settings={"gae_lambda": 0.8, "threads": 1}),
        *seeds(tmp_path, "high", [3.0, 4.0], settings={"gae_lambda": 0.95, "threads": 2, "eval_every": 100}),
        *seeds(tmp_path, "other", [5.0, 6.0], algorithm="a2c", settings={"gae_lambda": 1.0}),
    ]
    assert [row.label for row in compare(runs).rows] == ["ppo, gae_lambda=0.8", "ppo, gae_lambda=0.95", "a2c"]


def test_environments_and_their_arguments_are_panels(tmp_path: Path) -> None:
    arguments = {"env_args": {"is_slippery": False}}
    runs = [
        *seeds(tmp_path, "a", [1.0, 2.0], target="FrozenLake-v1"),
        *seeds(tmp_path, "b", [1.0, 2.0], target="FrozenLake-v1", settings=arguments),
    ]
    names = ["FrozenLake-v1", "FrozenLake-v1 is_slippery=False"]
    assert [panel.environment for panel in compare(runs).panels] == [*names, *names, "all environments"]


def test_evaluations_make_the_curve_where_every_run_has_enough(tmp_path: Path) -> None:
    def run(seed: int, evaluations: int) -> Path:
        rows = climb(50.0)
        for row in rows[:evaluations]:
            row["eval/mean_reward"] = 70.0 + seed
        return make_run(tmp_path / f"{seed}-{evaluations}", rows, seed=seed)

    enough = compare([run(0, 5), run(1, 6)])
    assert enough.panels[0].measure == "held-out return"
    assert enough.panels[0].bands["ppo"].steps[-1] == 500  # where the first of the two ends: nothing is extrapolated
    assert enough.rows[0].evaluation == 70.5
    assert compare([run(2, 5), run(3, 4)]).panels[0].measure == "training return (mean of the last 100 episodes)"


def test_one_seed_has_no_band_and_says_so(tmp_path: Path) -> None:
    comparison = compare(seeds(tmp_path, "a", [5.0]))
    (row,) = comparison.rows
    assert (row.mean, row.iqm, row.low, row.high) == (5.0, 5.0, None, None)
    assert np.isnan(comparison.panels[0].bands["ppo"].low).all()
    assert comparison.caption == "One seed each: no band."
    assert comparison.notes == ("ppo on CartPole-v1: one seed, so no band; give runs of more seeds",)


def test_what_a_reader_would_get_wrong_is_said(tmp_path: Path) -> None:
    rows = climb(8.0)
    rows[3] = {"rollout/ep_rew_mean": math.nan}
    runs = [
        make_run(tmp_path / "whole", rows, seed=0),
        make_run(tmp_path / "killed", climb(4.0)[:5], seed=1, state="running"),
        make_run(tmp_path / "empty", [], seed=2, state=None),
    ]
    comparison = compare(runs)
    said = "\n".join(comparison.notes)
    assert "not finished: 1 killed, 1 new" in said
    assert f"left out, no episode has finished: {tmp_path / 'empty'}" in said
    assert "the curve ends at 500 environment steps, with its shortest run (the longest has 1,000)" in said
    assert f"returns that are not finite leave a gap: {tmp_path / 'whole'}" in said
    band = comparison.panels[0].bands["ppo"]
    assert np.isnan(band.centre[3]) and np.isfinite(np.delete(band.centre, 3)).all()


def test_a_resumed_total_is_the_runs_own_and_said(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", climb(1.0), settings={"steps": 500}, total=1000),
        make_run(tmp_path / "b", climb(2.0), settings={"steps": 1000}, seed=1),
    ]
    comparison = compare(runs)
    assert [row.label for row in comparison.rows] == ["ppo"]
    assert comparison.notes == (f"ppo on CartPole-v1: {tmp_path / 'a'} began with 500 steps, resumed to 1,000",)


def test_runs_without_any_episode(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "a", [{"train/entropy": 1.0}])], tmp_path / "a.html")
    assert (comparison.rows[0].mean, comparison.rows[0].iqm) == (None, None)
    assert "nothing finite to draw" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert compare([tmp_path / "a"], tmp_path / "a.png").picture == tmp_path / "a.png"


def test_language_runs_are_compared_over_updates(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [{"reward": 0.1}, {"reward": 0.4}], algorithm="grpo", language=True)
    comparison = compare([run])
    (panel,) = comparison.panels
    assert (panel.unit, panel.measure) == ("updates", "mean reward of an update's completions")
    assert (comparison.rows[0].steps, comparison.rows[0].mean) == (2, 0.4)


@pytest.mark.parametrize(
    ("algorithm", "row", "told"),
    [
        ("sft", {"train/loss": 0.5, "train/entropy": 0.1}, ("loss", 0.5)),
        ("dpo", {"rewards/accuracies": 0.75, "train/loss": 0.6}, ("accuracy", 0.75)),
        ("reward_model", {"rewards/accuracies": 0.75, "train/loss": 0.6}, ("accuracy", 0.75)),
    ],
)
def test_a_run_on_given_examples_is_judged_by_what_it_has(
    tmp_path: Path, algorithm: str, row: dict[str, float], told: tuple[str, float]
) -> None:
    comparison = compare([make_run(tmp_path / "a", [row, row], algorithm=algorithm, target="tiny", language=True)])
    heads, cells = table(comparison.rows)
    assert heads[:5] == ("model", "runs", "seeds", "updates", told[0]) and cells[4] == str(told[1])
    assert comparison.panels[0].bands[algorithm].centre.tolist() == [told[1]] * 2
    assert all("left out" not in note for note in comparison.notes)


def test_what_cannot_be_compared_has_a_panel_of_its_own(tmp_path: Path) -> None:
    """Rewards and losses of one task; a task and a file are not the same thing to be trained on."""
    sort = {"task": "sort"}
    runs = [
        make_run(tmp_path / "a", [{"reward": 0.1}] * 6, algorithm="grpo", target="tiny", language=True, settings=sort),
        make_run(tmp_path / "b", [{"train/loss": 2.0}], algorithm="sft", target="tiny", language=True, settings=sort),
        make_run(
            tmp_path / "c", [{"train/loss": 1.0}], algorithm="sft", target="tiny", language=True,
            settings={"data": "/some/where/pairs.jsonl"},
        ),
    ]  # fmt: skip
    comparison = compare(runs, tmp_path / "c.html")
    assert [panel.environment for panel in comparison.panels] == ["tiny sort", "tiny sort", "tiny pairs.jsonl"]
    lines = render(comparison).splitlines()
    assert "reward/loss" in lines[0] and "reward 0.1" in lines[1] and "loss 2" in lines[2]
    assert "Reward/loss: of training" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_held_out_accuracy_makes_one_curve_of_rewards_and_losses(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, [{measure: 1.0, "eval/mean_reward": 0.5}] * 5, algorithm=name, language=True)
        for name, measure in (("grpo", "reward"), ("sft", "train/loss"))
    ]
    (panel,) = compare(runs).panels
    assert panel.measure == "held-out accuracy" and set(panel.bands) == {"grpo", "sft"}


def test_the_table_as_text_and_as_json(tmp_path: Path) -> None:
    comparison = compare(seeds(tmp_path, "a", RETURNS))
    lines = render(comparison).splitlines()
    assert lines[0].split("  ")[0] == "environment" and lines[0].endswith("evaluation")
    assert lines[1].split()[:6] == ["CartPole-v1", "ppo", "5", "1,000", "60", "30"]
    assert '"iqm": 30.0' in dumps(as_json(comparison))


def test_pictures(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "a", RETURNS) + seeds(tmp_path, "b", [1.0, 5.0], target="Acrobot-v1")
    for count in (5, 7):
        png = compare(runs[:count], tmp_path / "curves.png").picture
        assert png is not None and png.read_bytes().startswith(b"\x89PNG\r\n")
        assert not list(tmp_path.glob(".tmp-*"))
    document = compare(runs, tmp_path / "curves.html").picture
    assert document is not None
    text = document.read_text(encoding="utf-8")
    assert text.count("<figure>") == 5 and "IQM over 2 to 5 seeds" in text  # curves, profiles, one of both
    assert "<script" not in text and "http://" not in text and "https://" not in text


def test_names_of_others_are_escaped_in_both_pictures(tmp_path: Path) -> None:
    hostile = r"<script>alert(1)</script> $\frac{$"
    runs = seeds(tmp_path, "a", [1.0, 2.0], target=hostile, algorithm="\x1b[2J<b>")
    comparison = compare(runs, tmp_path / "curves.html")
    text = (tmp_path / "curves.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>" not in text
    assert "\x1b" not in render(comparison)
    compare(runs, tmp_path / "curves.png")  # matplotlib must not read it as mathematics


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("curves.gif", "a picture is .png or .html, not .gif"),
        ("curves", "not without a suffix"),
        ("no/a.png", "does not exist"),
    ],
)
def test_a_wrong_path_is_refused_before_a_run_is_read(tmp_path: Path, out: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compare([tmp_path / "nothing"], tmp_path / out)


def test_png_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = seeds(tmp_path, "a", [1.0, 2.0])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "advantage\[plots\]"'):
        compare(runs, tmp_path / "curves.png")
    assert compare(runs, tmp_path / "curves.html").picture is not None


def test_a_seed_twice_is_refused(tmp_path: Path) -> None:
    runs = seeds(tmp_path, "a", [1.0, 2.0])
    with pytest.raises(UserError, match="seed 1 is there 2 times"):
        compare([*runs, runs[1]])
    with pytest.raises(UserError, match="at least one run"):
        compare([])


def test_groups_are_set_against_the_first_one(tmp_path: Path) -> None:
    runs = [
        *seeds(tmp_path, "first", [1.0, 2.0, 3.0, 4.0]),
        *seeds(tmp_path, "better", [3.0, 5.0, 6.0], algorithm="a2c"),
        *seeds(tmp_path, "worse", [0.0, 0.5], algorithm="reinforce"),
    ]
    comparison = compare(runs)
    first, second = comparison.improvements
    won = sum(a > b or (a == b) / 2 for a in (3.0, 5.0, 6.0) for b in (1.0, 2.0, 3.0, 4.0))
    assert (first.label, first.beside, first.probability) == ("a2c", "ppo", won / 12)
    assert first.low is not None and first.high is not None and first.low < won / 12 < first.high
    assert (second.label, second.probability, second.low, second.high) == ("reinforce", 0.0, 0.0, 0.0)
    assert "every run of ppo lies on one side of every run of reinforce" in "\n".join(comparison.notes)
    assert comparison.differences == () and comparison.pooled == ()
    assert "P(a2c ends better than ppo)" in render(comparison)


def test_the_profile_is_the_share_of_runs_above(tmp_path: Path) -> None:
    _, panel = compare(seeds(tmp_path, "a", RETURNS)).panels
    band = panel.bands["ppo"]
    assert (band.steps[0], band.steps[-1], band.centre[0], band.centre[-1]) == (10.0, 200.0, 0.8, 0.0)
    np.testing.assert_allclose(band.centre, [np.mean(np.array(RETURNS) > at) for at in band.steps])
    assert (panel.unit, panel.from_zero) == ("return", False)


def test_several_environments_are_put_on_one_scale(tmp_path: Path) -> None:
    """Ranges 0 … 10 and −200 … 200: the greatest of each counts the same."""
    runs = [
        *seeds(tmp_path, "a", [0.0, 10.0]),
        *seeds(tmp_path, "b", [-200.0, 100.0], target="LunarLander-v3"),
        *seeds(tmp_path, "c", [5.0, 10.0], algorithm="a2c"),
        *seeds(tmp_path, "d", [100.0, 200.0], algorithm="a2c", target="LunarLander-v3"),
        *seeds(tmp_path, "e", [7.0], algorithm="reinforce"),
    ]
    comparison = compare(runs)
    assert [(row.label, row.environments, row.runs) for row in comparison.pooled] == [("ppo", 2, 4), ("a2c", 2, 4)]
    assert [row.iqm for row in comparison.pooled] == [(0.75 + 0.0) / 2, (0.75 + 1.0) / 2]  # the middle two of four
    everywhere = comparison.improvements[-1]
    assert (everywhere.environment, everywhere.label) == ("all environments", "a2c")
    assert everywhere.probability == np.mean([(1 + 0 + 1 + 0.5) / 4, (1 + 0.5 + 1 + 1) / 4])
    assert comparison.panels[-1].environment == "all environments" and set(comparison.panels[-1].bands) == {
        "ppo",
        "a2c",
    }


def test_pairs_of_equal_seeds(tmp_path: Path) -> None:
    runs = [
        *seeds(tmp_path, "a", [10.0, 200.0, 30.0, 7.0]),
        *seeds(tmp_path, "b", [11.0, 202.0, 33.0], algorithm="a2c"),
    ]
    comparison = compare(runs, paired=True)
    (row,) = comparison.differences
    assert (row.label, row.beside, row.seeds, row.difference, row.verdict) == (
        "a2c",
        "ppo",
        (0, 1, 2),
        2.0,
        "not distinguishable",
    )
    assert row.p_value == pytest.approx(0.0742, abs=1e-4)  # t = 2√3 with two degrees of freedom
    assert "seeds that only one of them has are left out: [3]" in "\n".join(comparison.notes)
    text = render(comparison)
    assert "a2c less ppo" in text and "+2" in text
    assert '"p_value": 0.07' in dumps(as_json(comparison))


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    def runs(name: str, *losses: float) -> list[Path]:
        return [
            make_run(
                tmp_path / f"{name}{seed}", [{"train/loss": loss}], seed=seed, algorithm="sft", target="tiny",
                language=True, settings={"learning_rate": name},
            )
            for seed, loss in enumerate(losses)
        ]  # fmt: skip

    comparison = compare([*runs("low", 2.0, 2.1, 2.0), *runs("high", 1.0, 1.1, 1.0)], paired=True)
    assert comparison.improvements[0].probability == 1.0
    (row,) = comparison.differences
    assert row.difference == pytest.approx(-1.0) and row.verdict == "better"
    assert len(comparison.panels) == 1  # no profile of a loss


def test_pairs_that_cannot_be(tmp_path: Path) -> None:
    here, there = seeds(tmp_path, "a", [1.0, 2.0]), seeds(tmp_path, "b", [1.0], target="Acrobot-v1")
    with pytest.raises(UserError, match="of one environment, these are of 2") as refused:
        compare([*here, *there], paired=True)
    assert all(told in str(refused.value) for told in ("CartPole-v1", "Acrobot-v1", str(there[0])))
    with pytest.raises(UserError, match="two groups or more, these runs are one: ppo"):
        compare(here, paired=True)
    other = [make_run(tmp_path / "c", climb(1.0), seed=7, algorithm="a2c")]
    with pytest.raises(UserError, match="equal seeds, these have none in common: ppo: 0, 1; a2c: 7"):
        compare([*here, *other], paired=True)


def test_labels_are_moved_apart_as_little_as_needed() -> None:
    """Against the definition: among ascending places `gap` apart, those nearest to where the labels want to stand."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = sorted(rng.uniform(size=rng.integers(1, 7)))
        found = np.array(spread([float(place) for place in wanted], 0.2))
        assert np.all(np.diff(found) >= 0.2 - 1e-9)
        best = np.sum((found - wanted) ** 2)
        for _ in range(50):
            other = np.sort(found + rng.normal(scale=0.1, size=len(found)))
            if np.all(np.diff(other) >= 0.2):
                assert np.sum((other - wanted) ** 2) >= best - 1e-9
