"""An MDP with a shape: cells, walls, rewards on entering a cell, moves that may slip."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sparse

from advantage.errors import UserError
from advantage.tabular.arrays import MOST, Ints, real, whole
from advantage.tabular.mdp import MDP

Cell = tuple[int, int]

ACTIONS = ("up", "right", "down", "left")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (rows, columns) of each action; its neighbours in the list are its sides
DENSE = 400  # cells up to which the tables are dense


class GridWorld(MDP):
    """Cells of a grid, numbered row by row; actions are up, right, down, left.

    A reward is paid on entering its cell. With probability `slip` a move goes to one of its two sides, each half the
    time. A wall or the edge leaves you where you were, which enters nothing. Walls are numbered as states too: they are
    terminal, and no move leads into one.

    Args:
        rows, cols: the size, ≥ 1.
        rewards: reward of each cell that has one, {(row, column): value}; +1 at (0, 7) and −1 at (3, 3) unless given.
        walls: cells that cannot be entered.
        start: the cell in which episodes begin; uniform over the free cells that are not terminal unless given.
        terminal: the cells in which an episode ends; those with a reward unless given.
        gamma: discount γ in [0, 1].
        slip: probability in [0, 1] of going to a side.

    Raises:
        UserError: a cell outside the grid or in a wall, or a number out of range.

    >>> world = GridWorld(rows=1, cols=3, rewards={(0, 2): 1.0})
    >>> world.q([0, 0, 0])[world.state((0, 1))]
    array([0., 1., 0., 0.])
    """

    def __init__(
        self,
        rows: int = 8,
        cols: int = 8,
        rewards: Mapping[Cell, float] | None = None,
        walls: Iterable[Cell] = (),
        start: Cell | None = None,
        terminal: Iterable[Cell] | None = None,
        gamma: float = 0.9,
        slip: float = 0.0,
    ) -> None:
        self.rows, self.cols = whole("rows", rows, 1), whole("cols", cols, 1)
        whole("rows · cols", self.rows * self.cols, 1, MOST)
        self.slip = real("slip", slip, 0.0, 1.0)
        self.walls = frozenset(self._inside("walls", cell) for cell in _each("walls", walls))
        paid = DEFAULT_REWARDS if rewards is None else rewards
        if not isinstance(paid, Mapping):
            raise UserError(f"rewards is {paid!r}; it must be {{(row, column): value}}")
        self.rewards = {self._free("rewards", cell): _finite(cell, value) for cell, value in paid.items()}
        ends = self.rewards if terminal is None else _each("terminal", terminal)
        self.ends = frozenset(self._free("terminal", cell) for cell in ends)
        flags = self._marked(self.walls | self.ends)
        first = None if start is None else self._marked([self._free("start", start)]).astype(np.float64)
        P, R = self._tables(self.rows * self.cols <= DENSE)
        super().__init__(P, R, gamma, flags, first)

    def state(self, cell: Cell) -> int:
        """Number of a cell.

        Raises:
            UserError: it is no cell of this grid.
        """
        row, col = self._inside("cell", cell)
        return row * self.cols + col

    def cell(self, state: int) -> Cell:
        """Row and column of a state.

        Raises:
            UserError: there is no state of that number.
        """
        return divmod(whole("state", state, 0, self.rows * self.cols - 1), self.cols)

    def _inside(self, name: str, cell: Any) -> Cell:
        try:
            row, col = (operator.index(part) for part in cell)
        except (TypeError, ValueError):
            raise UserError(f"{name}: {cell!r} is no cell; write (row, column), two whole numbers") from None
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise UserError(f"{name}: ({row}, {col}) lies outside {self.rows} × {self.cols} cells, counted from (0, 0)")
        return row, col

    def _free(self, name: str, cell: Any) -> Cell:
        if (inside := self._inside(name, cell)) in self.walls:
            raise UserError(f"{name}: {inside} is a wall; it cannot be entered")
        return inside

    def _marked(self, cells: Iterable[Cell]) -> Any:
        flags = np.zeros((self.rows, self.cols), np.bool_)
        for cell in cells:
            flags[cell] = True
        return flags.reshape(-1)

    def _targets(self) -> list[Ints]:
        """For each move, where it leads from every cell."""
        row, col = np.divmod(np.arange(self.rows * self.cols), self.cols)
        walls = self._marked(self.walls)
        found = []
        for down, right in MOVES:
            r, c = row + down, col + right
            inside = (r >= 0) & (r < self.rows) & (c >= 0) & (c < self.cols)
            there = np.where(inside, r * self.cols + c, 0)
            found.append(np.where(inside & ~walls[there], there, row * self.cols + col))
        return found

    def _tables(self, dense: bool) -> tuple[Any, Any]:
        """P and the rewards of the transitions, a table an action."""
        count = self.rows * self.cols
        paid = np.zeros(count)
        for cell, value in self.rewards.items():
            paid[self.state(cell)] = value
        targets, here = self._targets(), np.arange(count)
        P, R = [], []
        for action in range(4):
            ways = ((0, 1.0 - self.slip), (1, self.slip / 2), (-1, self.slip / 2))
            parts = [(targets[(action + turn) % 4], share) for turn, share in ways if share > 0]
            columns = np.concatenate([to for to, _ in parts])
            rows, data = np.tile(here, len(parts)), np.concatenate([np.full(count, share) for _, share in parts])
            table = sparse.csr_array(sparse.coo_array((data, (rows, columns)), shape=(count, count)))
            table.sum_duplicates()
            reward = table.copy()
            from_cell = np.repeat(here, np.diff(table.indptr))
            reward.data = np.where(table.indices == from_cell, 0.0, paid[table.indices])
            P.append(table.toarray() if dense else table)
            R.append(reward.toarray() if dense else reward)
        return (np.stack(P), np.stack(R)) if dense else (P, R)


def _each(name: str, cells: Any) -> Iterable[Any]:
    if not isinstance(cells, Iterable):
        raise UserError(f"{name} is {cells!r}; it must be a list of cells (row, column)")
    return cells


def _finite(cell: Any, value: Any) -> float:
    paid = real(f"the reward of {cell}", value)
    if not math.isfinite(paid):
        raise UserError(f"the reward of {cell} is {paid}; it must be finite")
    return paid


DEFAULT_REWARDS: Mapping[Cell, float] = {(0, 7): 1.0, (3, 3): -1.0}
