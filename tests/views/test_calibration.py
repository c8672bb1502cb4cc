from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from advantage.errors import UserError
from advantage.runs.reader import RunReader
from advantage.trajectory import Rollout
from advantage.views.calibration import calibration
from tests.views.synthetic import make_run


def rollout(values: list[list[float]], **changes: torch.Tensor) -> Rollout:
    """Two streams of three steps, rewards of 1; the first terminates, the second goes on behind the rollout."""
    shape = (2, 3)
    fields = {
        "context": torch.zeros(*shape, 1),
        "actions": torch.zeros(shape, dtype=torch.int64),
        "mask": torch.ones(shape, dtype=torch.bool),
        "terminated": torch.tensor([[False, False, True], [False, False, False]]),
        "truncated": torch.zeros(shape, dtype=torch.bool),
        "rewards": torch.ones(shape),
        "values": torch.tensor(values),
        "next_values": torch.full(shape, 8.0),
    }
    return Rollout(**{**fields, **changes})  # type: ignore[arg-type]


def test_returns_by_hand(tmp_path: Path) -> None:
    """γ = 1/2. Terminated: 1.75, 1.5, 1. Cut with V = 8 behind: 2.75, 3.5, 5, of which V weighs 1/8, 1/4, 1/2."""
    kept = rollout([[1.75, 1.5, 1.0], [2.0, 3.0, 4.0]])
    found = calibration(RunReader(make_run(tmp_path / "run", [{}], settings={"gamma": 0.5}, rollout=kept)))
    assert found is not None
    np.testing.assert_allclose(found.returns, [1.75, 1.5, 1.0, 2.75, 3.5, 5.0])
    np.testing.assert_allclose(found.values, [1.75, 1.5, 1.0, 2.0, 3.0, 4.0])
    assert found.borrowed == pytest.approx((1 / 8 + 1 / 4 + 1 / 2) / 6)
    errors = np.array([0, 0, 0, 0.75, 0.5, 1.0])
    assert found.explained_variance == pytest.approx(1 - errors.var() / found.returns.var())


def test_a_truncation_goes_on_with_the_value_of_what_follows(tmp_path: Path) -> None:
    """γ = 1/2, V = 8 behind the truncation after the first stream's second step: 1 + 5/2, 1 + 8/2, and 1 at its end."""
    truncated = torch.tensor([[False, True, False], [False, False, False]])
    kept = rollout([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], truncated=truncated)
    found = calibration(RunReader(make_run(tmp_path / "run", [{}], settings={"gamma": 0.5}, rollout=kept)))
    assert found is not None
    np.testing.assert_allclose(found.returns[:3], [3.5, 5.0, 1.0])


def test_masked_and_non_finite_steps_are_left_out(tmp_path: Path) -> None:
    mask = torch.tensor([[True, True, True], [False, True, True]])
    kept = rollout([[1.0, 2.0, 3.0], [4.0, float("inf"), 6.0]], mask=mask)
    found = calibration(RunReader(make_run(tmp_path / "run", [{}], rollout=kept)))
    assert found is not None
    np.testing.assert_array_equal(found.values, [1.0, 2.0, 3.0, 6.0])


def test_bins_hold_equal_numbers_of_steps_in_the_order_of_their_values(tmp_path: Path) -> None:
    kept = rollout([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])
    found = calibration(RunReader(make_run(tmp_path / "run", [{}], rollout=kept)))
    assert found is not None
    values, returns, low, high = found.bins()
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(returns, low)
    np.testing.assert_array_equal(returns, high)


def test_a_run_without_a_critic_or_without_a_finite_step_has_none(tmp_path: Path) -> None:
    kept = rollout([[1.0] * 3] * 2)
    assert calibration(RunReader(make_run(tmp_path / "a", [{}], rollout=kept.replace(values=None)))) is None
    broken = kept.replace(values=torch.full((2, 3), float("nan")))
    assert calibration(RunReader(make_run(tmp_path / "b", [{}], rollout=broken))) is None
    with pytest.raises(UserError, match="not there"):
        calibration(RunReader(make_run(tmp_path / "c", [{}])))


def test_equal_returns_have_no_explained_variance(tmp_path: Path) -> None:
    kept = rollout([[1.0] * 3] * 2)
    found = calibration(RunReader(make_run(tmp_path / "run", [{}], settings={"gamma": 0.0}, rollout=kept)))
    assert found is not None and found.explained_variance is None
