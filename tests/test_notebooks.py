"""The notebooks name what exists, and run: every cell, with all their figures."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import advantage
from advantage.algorithms import module
from advantage.api import Run
from advantage.settings import resolve
from tests.test_docs import METRIC, ROOT, dead_links

FOLDER = ROOT / "notebooks"
SCRIPTS = sorted(FOLDER.glob("0*.py"))
SHORT = {"steps": 600, "num_envs": 1, "seed": 0, "quiet": True}
OF_ITS_OWN = {"reinforce": {"episodes": 4, "baseline": "none"}, "ppo": {"num_steps": 128}, "a2c": {"record_every": 1}}

of_every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@pytest.fixture(scope="module")
def drawing() -> Iterator[ModuleType]:
    """`figures.py`, found as the notebooks find it."""
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(FOLDER))
    import figures

    yield figures
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A short run of each notebook's algorithm."""
    names, folder = [script.stem[3:] for script in SCRIPTS], tmp_path_factory.mktemp("runs")
    return {
        name: advantage.train(name, "CartPole-v1", run_dir=folder / name, **SHORT, **OF_ITS_OWN.get(name, {}))
        for name in names
    }


def test_there_are_five() -> None:
    assert len(SCRIPTS) == 5


@of_every_script
def test_a_script_asks_for_what_exists(
    script: Path, drawing: ModuleType, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its lines are run, on a short run of its algorithm in the place of each that it trains."""
    from matplotlib import pyplot as plt

    asked, shown = [], []

    def short(algorithm: str, environment: str, seed: int, quiet: bool, **settings: Any) -> Run:
        assert (environment, seed, quiet) == ("LunarLander-v3", 0, True)
        asked.append((algorithm, resolve(module(algorithm).Settings, settings)))
        return runs[algorithm]

    monkeypatch.setattr(advantage, "train", short)
    monkeypatch.setattr(plt, "show", lambda: (shown.append(plt.gcf()), plt.close()))
    monkeypatch.setenv("NOTEBOOK_STEPS", "12345")
    exec(compile(script.read_text(encoding="utf-8"), script.name, "exec"), {"__name__": "notebook"})  # noqa: S102
    assert {algorithm for algorithm, _ in asked} == {script.stem[3:]}
    assert {settings.steps for _, settings in asked} == {12345}
    assert [settings.env_args for _, settings in asked].count({"continuous": True}) == 1
    assert len(asked) == len({str(settings) for _, settings in asked}), "nothing is trained twice"
    assert len(shown) == 4


def test_figures_know_what_runs_write(runs: dict[str, Run]) -> None:
    named = set(METRIC.findall((FOLDER / "figures.py").read_text(encoding="utf-8")))
    assert len(named) > 5
    assert named <= runs["ppo"].metrics().keys()


def drawn(drawing: ModuleType, monkeypatch: pytest.MonkeyPatch, **runs: Run) -> list[Any]:
    """The panels that `figures` shows, in their order."""
    from matplotlib import pyplot as plt

    shown: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    drawing.figures(runs)
    for figure in shown:
        figure.canvas.draw()
        plt.close(figure)
    return [axis for figure in shown for axis in figure.axes]


def test_panels_are_labelled_and_show_every_run(
    drawing: ModuleType, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.colors import to_hex

    panels = drawn(drawing, monkeypatch, one=runs["ppo"], other=runs["a2c"])
    assert len(panels) == 9
    for panel in panels:
        assert panel.get_title() and panel.get_xlabel() and panel.get_ylabel()
        colours = {line.get_color() for line in panel.lines}
        colours |= {to_hex(patch.get_edgecolor()) for patch in panel.patches}
        assert {to_hex(colour) for colour in colours} >= {to_hex("C0"), to_hex("C1")}, panel.get_title()


def test_what_was_earned_is_drawn_as_it_was(
    drawing: ModuleType, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    returns = runs["ppo"].reader.episodes()["return"]
    score, _, histogram, *_ = drawn(drawing, monkeypatch, ppo=runs["ppo"])
    np.testing.assert_array_equal(score.lines[0].get_ydata(), returns)
    assert score.lines[1].get_ydata()[-1] == pytest.approx(returns[-drawing.WINDOW :].mean())
    assert histogram.has_data()


def test_a_run_without_a_critic_says_so(
    drawing: ModuleType, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = drawn(drawing, monkeypatch, reinforce=runs["reinforce"])
    empty = [panel.get_title().split()[0] for panel in panels if panel.texts]
    assert empty == ["critic's", "baseline:", "explained"]


def test_rolling(drawing: ModuleType) -> None:
    x, y = drawing.rolling(np.array([1, 1, 2, 3]), np.array([4.0, 2.0, 6.0, 1.0]), 2, np.mean)
    assert (x.tolist(), y.tolist()) == ([1, 2, 3], [3.0, 4.0, 3.5])
    x, y = drawing.rolling(np.array([1, 1, 2]), np.array([4.0, 2.0, 6.0]), 1, np.mean)
    assert (x.tolist(), y.tolist()) == ([1, 2], [2.0, 6.0])  # the last at each x
    assert drawing.rolling(np.array([5]), np.array([7.0]), 50, np.mean)[1].tolist() == [7.0]
    assert len(drawing.rolling(np.array([]), np.array([]), 50, np.mean)[1]) == 0


@pytest.mark.parametrize("page", [FOLDER / "README.md", *SCRIPTS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_the_page_has_every_notebook() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [script.name for script in SCRIPTS if f"]({script.name})" not in text] == []


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    from notebooks.__main__ import main

    with pytest.raises(SystemExit, match="there is no notebook '06'; there are 01_reinforce, 02_"):
        main(["06"])


@pytest.mark.slow
@of_every_script
def test_every_cell_runs_and_has_its_figures(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jupytext", "nbclient", "ipykernel", "Box2D"):
        pytest.importorskip(package)
    import nbformat

    from notebooks.__main__ import build

    monkeypatch.setenv("NOTEBOOK_STEPS", "5000")
    for each in (script, FOLDER / "figures.py"):
        shutil.copy(each, tmp_path)
    notebook: Any = nbformat.read(build(tmp_path / script.name), as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        asked = len(re.findall(r"^figures\(", cell.source, flags=re.MULTILINE))
        kinds = [kind for output in cell.outputs for kind in output.get("data", {})]
        assert kinds.count("image/png") == 2 * asked
        assert [output for output in cell.outputs if output.get("name") == "stderr"] == []
        assert cell.execution_count


@pytest.mark.slow
def test_a_cell_that_fails_fails_the_build(tmp_path: Path) -> None:
    errors = pytest.importorskip("nbclient.exceptions")
    pytest.importorskip("jupytext")
    from notebooks.__main__ import build

    (tmp_path / "wrong.py").write_text("# %%\nraise KeyError('train/los')\n")
    with pytest.raises(errors.CellExecutionError, match="train/los"):
        build(tmp_path / "wrong.py")
    assert not (tmp_path / "wrong.ipynb").exists()
