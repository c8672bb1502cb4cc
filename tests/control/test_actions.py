"""Raw actions into their boxes: clipped or stretched, with and without bounds, and how many lay outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from advantage.control.actions import Bounds
from advantage.trajectory import tree_map

LOW, HIGH = np.array([-0.5, 2.0], np.float32), np.array([0.5, 6.0], np.float32)
BOX = spaces.Box(LOW, HIGH)
INF = np.inf
HALF = spaces.Box(np.array([-INF, -INF, 0.0, -2.0]), np.array([INF, 1.0, INF, 4.0]), dtype=np.float64)
NESTED = spaces.Dict(
    {
        "z": spaces.Discrete(3, start=5),
        "a": spaces.Tuple((BOX, spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
    }
)


def sent(space: spaces.Space[Any], how: str, rows: list[Any]) -> Any:
    return Bounds(space, how).applied(torch.tensor(rows, dtype=torch.float32)).tolist()


def test_clip_cuts_off_at_the_box() -> None:
    assert sent(BOX, "clip", [[-3.0, 9.0], [0.25, 3.5], [0.6, 1.9]]) == [[-0.5, 6.0], [0.25, 3.5], [0.5, 2.0]]


def test_rescale_stretches_minus_one_to_one_over_the_box() -> None:
    assert sent(BOX, "rescale", [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [0.5, -0.5]]) == [
        [-0.5, 2.0],
        [0.5, 6.0],
        [0.0, 4.0],
        [0.25, 3.0],
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rescale_stretches_over_the_whole_range_of_floats(dtype: Any) -> None:
    top = float(np.finfo(dtype).max)
    assert sent(spaces.Box(-top, top, (3,), dtype), "rescale", [[-1.0, 0.0, 1.0]]) == [[-top, 0.0, top]]


def test_rescale_cuts_off_at_one() -> None:
    assert sent(BOX, "rescale", [[-7.0, 7.0]]) == sent(BOX, "rescale", [[-1.0, 1.0]])


def test_rescale_changes_nothing_where_the_box_is_minus_one_to_one() -> None:
    unit, raw = spaces.Box(-1.0, 1.0, (5,), np.float32), np.linspace(-2, 2, 5)
    assert sent(unit, "rescale", [raw.tolist()]) == sent(unit, "clip", [raw.tolist()])


def test_entries_without_finite_bounds_are_clipped_even_where_others_are_stretched() -> None:
    rows = [[-9.0, -9.0, -9.0, -1.0], [9.0, 9.0, 9.0, 0.0]]
    assert sent(HALF, "rescale", rows) == [[-9.0, -9.0, 0.0, -2.0], [9.0, 1.0, 9.0, 1.0]]
    assert sent(HALF, "clip", rows) == [[-9.0, -9.0, 0.0, -1.0], [9.0, 1.0, 9.0, 0.0]]


@pytest.mark.parametrize("how", ["clip", "rescale"])
def test_no_rounding_leaves_the_box(how: str) -> None:
    """Bounds that float32 does not hold, and stretches that round beyond them."""
    rng = np.random.default_rng(0)
    dtypes: list[Any] = [np.float32, np.float64]
    for dtype in dtypes:
        low = rng.normal(size=50).astype(dtype)
        box = spaces.Box(low, low + rng.random(50).astype(dtype), dtype=dtype)
        for rows in (torch.full((1, 50), -1.0), torch.ones(1, 50), torch.from_numpy(rng.normal(size=(40, 50))).float()):
            assert all(box.contains(row) for row in Bounds(box, how).applied(rows))


@pytest.mark.parametrize("raw", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("how", ["clip", "rescale"])
def test_sent_actions_have_the_dtype_of_their_box(how: str, dtype: Any, raw: torch.dtype) -> None:
    applied = Bounds(spaces.Box(-2.0, 3.0, (2,), dtype), how).applied(torch.zeros(4, 2, dtype=raw))
    assert applied.dtype == dtype and applied.shape == (4, 2)


@pytest.mark.parametrize("how", ["clip", "rescale"])
def test_the_raw_action_stays_what_it_was(how: str) -> None:
    raw = torch.tensor([[-3.0, 9.0], [0.1, 3.0]])
    kept = raw.clone()
    Bounds(BOX, how).applied(raw)
    assert torch.equal(raw, kept)


def tree(reals: Tensor) -> dict[str, Any]:
    """Raw actions; the space has its keys in another order."""
    rows = len(reals)
    parts = reals, torch.ones(rows, 2, dtype=torch.int8), torch.full((rows, 2), 9)
    return {"z": torch.full((rows,), 9), "a": parts}


@pytest.mark.parametrize("how", ["clip", "rescale"])
def test_in_a_tree_only_boxes_are_bounded(how: str) -> None:
    raw = tree(torch.tensor([[-3.0, 9.0], [0.25, 0.25]]))
    applied = Bounds(NESTED, how).applied(raw)
    assert list(applied) == ["z", "a"] and isinstance(applied["a"], tuple)
    reals, bits, choices = applied["a"]
    assert reals.tolist() == sent(BOX, how, raw["a"][0].tolist())
    for mine, its in ((applied["z"], raw["z"]), (bits, raw["a"][1]), (choices, raw["a"][2])):
        assert isinstance(mine, np.ndarray) and mine.tolist() == its.tolist()
    assert bits.dtype == np.int8


# --- saturation ---


@pytest.mark.parametrize(
    ("how", "rows", "share"),
    [
        ("clip", [[0.0, 1.0], [0.6, 4.0]], 2 / 4),
        ("clip", [[-0.5, 6.0], [0.5, 2.0]], 0.0),  # on a bound is not outside
        ("rescale", [[0.0, 1.0], [0.6, 4.0]], 1 / 4),
        ("rescale", [[-1.0, 1.0], [-1.1, -0.9]], 1 / 4),
    ],
)
def test_saturation_is_the_share_of_entries_outside(how: str, rows: list[list[float]], share: float) -> None:
    assert Bounds(BOX, how).saturation(torch.tensor(rows)) == share
    assert Bounds(BOX, how).saturation(torch.tensor(rows).reshape(2, 1, 2)) == share
    assert Bounds(BOX, how).saturation(np.array(rows, np.float32)) == share


def test_without_a_bound_nothing_lies_outside() -> None:
    rows = torch.tensor([[-1e9, -1e9, 1e9, 0.0], [1e9, 2.0, -1.0, 5.0]])
    assert Bounds(HALF, "clip").saturation(rows) == 3 / 8
    assert Bounds(HALF, "rescale").saturation(rows) == 3 / 8
    assert Bounds(HALF, "rescale").saturation(torch.full((1, 4), 1.5)) == 2 / 4  # above 1 and above the stretch


def test_saturation_counts_the_boxes_of_a_tree_alone() -> None:
    assert Bounds(NESTED, "clip").saturation(tree(torch.tensor([[-3.0, 4.0], [0.1, 3.0]]))) == 1 / 4


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Tuple((spaces.MultiBinary(2), spaces.Discrete(2)))])
def test_without_reals_there_is_no_saturation(space: spaces.Space[Any]) -> None:
    space.seed(0)
    actions = tree_map(lambda leaf: torch.as_tensor(leaf)[None], space.sample())
    assert Bounds(space, "clip").saturation(actions) is None
