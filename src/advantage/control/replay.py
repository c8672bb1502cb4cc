"""What was lived through, remembered: a ring of transitions from which minibatches are drawn again and again.

A transition is stored as it is learnt from: n rewards summed, the state behind them, and the factor that its value
counts with, which is 0 behind a termination and behind nothing else.

    R_t = Σ_{k<m} γᵏ r_{t+k},   following s_{t+m},   discount γᵐ (1 − terminated_{t+m−1}),   m = n, less at an end
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advantage.control.explore import Steps, seen_through
from advantage.control.failures import in_memory
from advantage.control.normalization import Normalizer
from advantage.control.sum_tree import SumTree
from advantage.core import discounts, n_step_advantage
from advantage.errors import UserError
from advantage.runs import memory, tensors
from advantage.trajectory import Tree, tree_leaves, tree_map

Array = np.ndarray[Any, Any]
TOGETHER = 1024  # rows drawn together: more fit in no cache, fewer cost calls


@dataclass(frozen=True)
class Transitions:
    """Rows as they were drawn, (rows, …).

    Attributes:
        context, following: as the network sees them.
        actions: int64.
        returns, discounts: R and the factor of what follows.
        index: where they stand in the replay.
        weights: of the importance of each, at most 1; None where all were as likely.
    """

    context: Tree
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    following: Tree
    index: Array
    weights: Tensor | None = None

    def split(self, size: int) -> Iterator[Transitions]:
        """The minibatches, in their order."""
        for first in range(0, len(self.index), size):
            part = slice(first, first + size)
            yield Transitions(
                context=tree_map(lambda leaf: leaf[part], self.context),  # noqa: B023 - used at once
                actions=self.actions[part],
                returns=self.returns[part],
                discounts=self.discounts[part],
                following=tree_map(lambda leaf: leaf[part], self.following),  # noqa: B023
                index=self.index[part],
                weights=None if self.weights is None else self.weights[part],
            )


class Replay:
    """The last `buffer_size` transitions, each as likely to be drawn.

    What it holds a run keeps in pieces that are written once (`advantage.runs.segments`): a checkpoint's own part is
    small.

    Args:
        context: of the environments, (E, …): what an observation looks like. Observations are kept as they came.
        normalizer: what the network sees those that are drawn through.
        settings: with `buffer_size`, `minibatch_size`, `n_step`, `gamma` and `double`.

    Attributes:
        added: transitions so far, those that were overwritten included.
        largest: |r| of the largest single reward so far.

    Raises:
        UserError: it does not fit in memory.
    """

    def __init__(self, context: Tree, normalizer: Normalizer, settings: Any) -> None:
        self.capacity: int = settings.buffer_size
        self._made = {name: getattr(settings, name) for name in ("buffer_size", "n_step", "replay")}
        self.size, self.n_step, self.gamma = settings.minibatch_size, settings.n_step, settings.gamma
        self._alone = settings.double  # the network of each minibatch chooses the actions that its targets value
        self._normalizer = normalizer
        self.added, self.largest = 0, 0.0
        real = torch.zeros(0).numpy().dtype
        alike = tree_map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), context)
        columns = {"actions": np.int64, "returns": real, "discounts": real}
        example = {"context": alike, "following": alike, **{name: np.zeros(0, kind) for name, kind in columns.items()}}
        _check_size(
            self.capacity, sum(leaf.dtype.itemsize * int(np.prod(leaf.shape[1:])) for leaf in tree_leaves(example))
        )
        with in_memory(buffer_size=self.capacity):
            self.rows = tree_map(lambda leaf: np.zeros((self.capacity, *leaf.shape[1:]), leaf.dtype), example)
        self._open: Steps | None = None  # steps whose n rewards are not all there yet

    def __len__(self) -> int:
        """Transitions that it holds."""
        return min(self.added, self.capacity)

    @property
    def span(self) -> tuple[int, int]:
        """The numbers of the first transition that it holds and of the one to come, counted from the run's first."""
        return self.added - len(self), self.added

    def add(self, steps: Steps) -> None:
        """Takes in what was collected; the oldest transitions make room. Steps whose n rewards still come wait."""
        self.largest = max(self.largest, float(np.abs(steps.rewards[steps.mask]).max(initial=0.0)))
        if self._open is not None:
            steps = _joined(self._open, steps)
        end, whole = _windows(steps, self.n_step)
        time, env = np.nonzero(steps.mask & whole)
        last = end[time, env]
        self._push(
            {
                "context": tree_map(lambda leaf: leaf[time, env], steps.context),
                "following": tree_map(lambda leaf: leaf[last, env], steps.following),
                "actions": steps.actions[time, env],
                "returns": _sums(steps, self.n_step, self.gamma)[time, env],
                "discounts": self.gamma ** (last - time + 1.0) * ~steps.terminated[last, env],
            }
        )
        if self.n_step > 1:
            tail = slice(max(0, len(steps.mask) - self.n_step + 1), None)
            self._open = _cut(steps, tail, steps.mask & ~whole)

    def draw(self, count: int, rng: np.random.Generator, remaining: float) -> Iterator[Transitions]:
        """Minibatches with replacement, several together where nothing that is learnt from one changes another.

        Args:
            count: how many, ≥ 1.
            rng: decides which.
            remaining: share of the run that is still to come; of no meaning where all are as likely.
        """
        index = rng.integers(len(self), size=(count, self.size))
        together = 1 if self._alone else max(1, TOGETHER // self.size)
        for first in range(0, count, together):
            yield self._taken(index[first : first + together].reshape(-1))

    def reweigh(self, index: Array, errors: Tensor) -> None:
        """Hears how far off the values of these rows were; here all stay as likely."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds itself; the transitions come by `rows_between`."""
        waiting = {} if self._open is None else tensors.flatten({"open": vars(self._open)})[0]
        return {"added": self.added, "largest": self.largest, **self._made, **waiting}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave; the transitions come back by `take_back`.

        Raises:
            UserError: it was made with other settings: its rows would mean something else, or be missing.
        """
        for name, here in self._made.items():
            if state[name] != here:
                raise UserError(
                    f"{name} is {here}, and {state[name]} in the run's replay, which keeps it; give that again"
                )
        self.added, self.largest = int(state["added"]), float(state["largest"])
        if waiting := {name: value for name, value in state.items() if name.startswith("open/")}:
            self._open = Steps(**tensors.unflatten(waiting, self._tuples("open/", "context", "following"))["open"])

    def rows_between(self, first: int, end: int) -> dict[str, Array]:
        """Transitions by their numbers, which `span` bounds, as named arrays."""
        place = np.arange(first, end) % self.capacity
        named: Any = tensors.flatten(tree_map(lambda leaf: leaf[place], self.rows))[0]
        return dict(named)

    def take_back(self, first: int, rows: Mapping[str, Any]) -> None:
        """Transitions from that number on, as `rows_between` gave them; those that the span has left behind are not."""
        block = tensors.unflatten(dict(rows), self._tuples("", "context", "following"))
        begin = max(first, self.span[0])
        place = np.arange(begin, first + len(block["actions"])) % self.capacity
        tree_map(lambda leaf, new: leaf.__setitem__(place, new[begin - first :]), self.rows, block)

    def _push(self, block: Tree) -> None:
        count = len(block["actions"])
        late = slice(max(0, count - self.capacity), None)
        place = (self.added + np.arange(count)[late]) % self.capacity
        tree_map(lambda leaf, new: leaf.__setitem__(place, new[late]), self.rows, block)
        self.added += count

    def _taken(self, index: Array, weights: Tensor | None = None) -> Transitions:
        drawn = tree_map(lambda leaf: leaf.take(index, axis=0), self.rows)
        return Transitions(
            context=seen_through(self._normalizer, drawn["context"]),
            actions=torch.from_numpy(drawn["actions"]),
            returns=torch.from_numpy(drawn["returns"]),
            discounts=torch.from_numpy(drawn["discounts"]),
            following=seen_through(self._normalizer, drawn["following"]),
            index=index,
            weights=weights,
        )

    def _tuples(self, prefix: str, *names: str) -> list[str]:
        return [f"{prefix}{name}" for name in tensors.flatten({key: self.rows[key] for key in names})[1]]


class PrioritizedReplay(Replay):
    """Transitions whose value was further off are likelier, and count for less.

        P(i) = p_i^α / Σ_k p_k^α,   p_i = |δ_i| + ε,   w_i = (N P(i))^{−β} / max_j w_j of the minibatch

    A new transition has the greatest priority yet: each is likely to be learnt from once. Of a minibatch one row comes
    from each of as many equal parts of the whole weight, which keeps the probabilities and lowers the variance.

    Source: Schaul et al. 2016, equations 1 and 2, section 3.3.
    """

    EPS = 1e-6

    def __init__(self, context: Tree, normalizer: Normalizer, settings: Any) -> None:
        super().__init__(context, normalizer, settings)
        self._alpha, self._beta, self._greatest = settings.priority_alpha, settings.priority_beta, 1.0
        self._tree = SumTree(self.capacity)

    def draw(self, count: int, rng: np.random.Generator, remaining: float) -> Iterator[Transitions]:
        """As a replay's, one minibatch at a time: each may change the priorities of the next.

        β rises in a line to 1 at the end, where it undoes the preference in full.
        """
        beta = 1.0 - (1.0 - self._beta) * remaining
        for _ in range(count):
            index = self._tree.find((np.arange(self.size) + rng.random(self.size)) / self.size)
            weights = (len(self) * self._tree.share(index)) ** -beta
            yield self._taken(index, torch.from_numpy(weights / weights.max()).to(torch.get_default_dtype()))

    def reweigh(self, index: Array, errors: Tensor) -> None:
        """Sets the priorities of rows (n,) by their TD errors (n,)."""
        priorities = np.abs(errors.numpy().astype(np.float64)) + self.EPS
        self._greatest = max(self._greatest, float(priorities.max()))
        self._tree.set(index, priorities**self._alpha)

    def state(self) -> dict[str, Any]:
        """As a replay's, and every priority: they change everywhere, in 8 bytes a transition."""
        weights = self._tree.weights(np.arange(len(self)))
        return {**super().state(), "greatest": self._greatest, "priorities": weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        super().restore(state)
        self._greatest = float(state["greatest"])
        self._tree.set(np.arange(len(self)), np.asarray(state["priorities"]))

    def _push(self, block: Tree) -> None:
        first = self.added
        super()._push(block)
        new = np.arange(max(first, self.added - self.capacity), self.added) % self.capacity
        self._tree.set(new, np.full(len(new), self._greatest**self._alpha))


def make_replay(context: Tree, normalizer: Normalizer, settings: Any) -> Replay:
    """The replay of these settings, empty."""
    return (PrioritizedReplay if settings.replay == "prioritized" else Replay)(context, normalizer, settings)


def _check_size(capacity: int, bytes_each: int) -> None:
    free = memory.available()
    if free is not None and capacity * bytes_each > free:
        raise UserError(
            f"buffer_size is {capacity}, {capacity * bytes_each / 2**30:.3g} GiB at {bytes_each} bytes a transition;"
            f" this machine has {free / 2**30:.3g} GiB free, give at most {free // bytes_each}"
        )


def _windows(steps: Steps, n: int) -> tuple[Array, Array]:
    """Where the n rewards from each step on end, by time, and whether they are all there: (T, E) both."""
    time, envs = steps.mask.shape
    cut = steps.terminated | steps.truncated
    begin, env = np.indices((time, envs))
    end = begin
    for _ in range(n - 1):
        end = np.where(cut[end, env], end, np.minimum(end + 1, time - 1))
    return end, cut[end, env] | (end - begin == n - 1)


def _sums(steps: Steps, n: int, gamma: float) -> Array:
    """R of every step, (T, E): an n-step advantage over a critic that says 0 is the sum of rewards alone."""
    rewards, terminated, cut = (
        torch.from_numpy(leaf).T for leaf in (steps.rewards, steps.terminated, steps.terminated | steps.truncated)
    )
    found: Array = n_step_advantage(rewards, discounts(terminated, gamma, rewards.dtype), cut, n).T.numpy()
    return found


def _joined(before: Steps, after: Steps) -> Steps:
    """Steps and those that came after them. An environment that began anew in between was cut off there."""
    both = {
        name: tree_map(lambda a, b: np.concatenate([a, b]), value, getattr(after, name))
        for name, value in vars(before).items()
    }
    last, first = (leaf["observation"] for leaf in (before.following, after.context))
    told = tree_map(lambda a, b: (a[-1] != b[0]).reshape(len(a[-1]), -1).any(-1), last, first)
    begun = np.logical_or.reduce(list(tree_leaves(told)))
    at = len(before.mask) - 1
    both["truncated"][at] |= begun & before.mask[-1] & ~before.terminated[-1]
    return Steps(**both)


def _cut(steps: Steps, part: slice, mask: Array) -> Steps:
    columns = {name: tree_map(lambda leaf: leaf[part].copy(), value) for name, value in vars(steps).items()}
    return Steps(**{**columns, "mask": mask[part].copy()})
