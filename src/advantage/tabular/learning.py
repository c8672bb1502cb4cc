"""From episodes to tables: what all model-free methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from advantage.errors import UserError
from advantage.runs.streams import Streams
from advantage.tabular.arrays import MOST, Floats, Ints, whole
from advantage.tabular.compiled import installed
from advantage.tabular.exact import epsilon_greedy_policy, softmax_policy
from advantage.tabular.loop import Clock, loop, looping
from advantage.tabular.primitives import primitives
from advantage.tabular.schedules import Decay
from advantage.tabular.sweeps import KEPT, greedy
from advantage.tabular.updates import Method
from advantage.tabular.worlds import World

BLOCK = 1 << 15  # rows of random numbers that are drawn at once
PLAIN_STEPS = 3_000_000  # after which compiling pays, where numba is there and much is still to come
MAX_STEPS = 10_000  # of an episode, unless said otherwise


@dataclass(frozen=True)
class Snapshot:
    """What had been learnt after some episodes.

    Attributes:
        episode, steps: finished episodes, and steps in all of them.
        mean_return, mean_length: of the episodes since the snapshot before; returns without discount.
        explore, alpha: ε or temperature, and step size, of the moment.
        values, q, policy: as of the result; None where there are too many states to keep them.
    """

    episode: int
    steps: int
    mean_return: float
    mean_length: float
    explore: float
    alpha: float
    values: Floats | None
    q: Floats | None
    policy: Floats | None

    def json(self) -> dict[str, Any]:
        """The snapshot in plain numbers and lists."""
        return {
            "kind": "episodes",
            **{name: it.tolist() if isinstance(it, np.ndarray) else it for name, it in vars(self).items()},
        }


@dataclass(frozen=True)
class Learned:
    """What was learnt.

    Attributes:
        values: (S,) V; of control max_a Q.
        q: (S, A) Q; None of prediction.
        policy: (S, A) the greedy one, ties sharing evenly; of prediction the one that was played.
        behaviour: (S, A) the policy that acted at the end.
        returns, lengths: (episodes,) undiscounted return and steps of each.
        steps: in all episodes together.
        snapshots: in the course of learning, the last at its end.
    """

    values: Floats
    q: Floats | None
    policy: Floats
    behaviour: Floats
    returns: Floats
    lengths: Ints
    steps: int
    snapshots: tuple[Snapshot, ...] = field(repr=False)

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry a snapshot: kind, episode, steps, mean_return, mean_length, explore, alpha, values, q, policy."""
        return [snapshot.json() for snapshot in self.snapshots]


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt, and how.

    Attributes:
        method: the update.
        behaviour: "epsilon_greedy", "softmax" or "given".
        acted_on: the table that actions are chosen from.
        learnt: (S, A) or (S, 1), changed in place.
        memory: what the update keeps besides.
        explore: ε or temperature.
        alpha: step size.
        policy: the given one.
    """

    method: Method
    behaviour: str
    acted_on: Floats
    learnt: Floats
    memory: tuple[Any, ...]
    explore: Decay
    alpha: Decay
    policy: Floats | None = None


@dataclass(frozen=True)
class Course:
    """How long to learn, from which numbers, and how it is watched."""

    episodes: int
    seed: int
    max_steps: int
    compiled: bool | None
    snapshots: int

    def __post_init__(self) -> None:
        for name, low, high in (
            ("episodes", 1, MOST),
            ("seed", 0, None),
            ("max_steps", 1, MOST),
            ("snapshots", 1, MOST),
        ):
            object.__setattr__(self, name, whole(name, getattr(self, name), low, high))
        if self.compiled is not None and not isinstance(self.compiled, bool):
            raise UserError(f"compiled is {self.compiled!r}; it must be True, False or None")


def learn(world: World, lesson: Lesson, course: Course) -> Learned:
    """Plays the episodes of a course and learns from each step.

    Raises:
        UserError: `compiled=True` without numba or with an environment; what is learnt grows beyond all bounds.
        RunFailed: an environment paid what is no finite number.
    """
    learner, snapshots = _Learner(world, lesson, course), list[Snapshot]()
    begin = 0
    for stop in np.unique(np.linspace(0, course.episodes, course.snapshots + 1).round().astype(int))[1:].tolist():
        learner.play(stop)
        snapshots.append(learner.snapshot(begin))
        begin = stop
    return learner.result(snapshots)


class _Learner:
    def __init__(self, world: World, lesson: Lesson, course: Course) -> None:
        if course.compiled and world.move is not None:
            raise UserError("compiled=True wants an MDP; an environment is played by its own code")
        self._world, self._lesson, self._course = world, lesson, course
        self._streams = Streams(course.seed)
        self._clock, self._block, self._steps_before = Clock(row=BLOCK), 0, 0
        self._log: Any = (np.zeros(course.episodes), np.zeros(course.episodes, np.int64))
        self._tables: Any = (lesson.acted_on, lesson.learnt, lesson.memory)
        self._go_on(bool(course.compiled))

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._steps_before + self._clock.steps

    def play(self, stop: int) -> None:
        """Goes on until so many episodes are finished."""
        while self._clock.episode < stop:
            if self._clock.row == BLOCK:
                self._next_block()
            after = self._run(
                *self._tables, self._outcomes, self._draws, self._knobs, self._course.max_steps, self._world.gamma,
                tuple(self._clock), self._log, stop,
            )  # fmt: skip
            self._clock = Clock(*after)

    def learnt(self) -> tuple[Floats, Floats | None]:
        """V and Q as they stand, 0 in terminal states."""
        acted_on, table = (_arrays(it) for it in self._tables[:2])
        found = np.where(self._world.terminal[:, None], 0.0, acted_on if self._lesson.method.coins else table)
        if not np.isfinite(found).all():
            raise UserError(f"what is learnt grows beyond all bounds (step {self.steps:,}); give a smaller alpha")
        return (found[:, 0], None) if self._lesson.policy is not None else (found.max(1), found)

    def behaviour(self) -> Floats:
        """The policy that acts now."""
        return behaviour_policy(self._lesson, np.asarray(_arrays(self._tables[0])), self._clock.explore)

    def snapshot(self, begin: int) -> Snapshot:
        """What has been learnt; means over the episodes from `begin` on."""
        stop = self._clock.episode
        returns, lengths = (np.asarray(column[begin:stop], np.float64) for column in self._log)
        values, q = self.learnt()
        policy = self.behaviour() if q is None else greedy(q)
        kept = (values.copy(), q, policy) if len(values) <= KEPT else (None, None, None)
        means = float(returns.mean()), float(lengths.mean())
        return Snapshot(stop, self.steps, *means, self._clock.explore, self._clock.alpha, *kept)

    def result(self, snapshots: Sequence[Snapshot]) -> Learned:
        """All of it."""
        (values, q), behaviour = self.learnt(), self.behaviour()
        policy = behaviour if q is None else greedy(q)
        returns, lengths = (np.array(column) for column in self._log)
        return Learned(values, q, policy, behaviour, returns, lengths, self.steps, tuple(snapshots))

    def _go_on(self, fast: bool) -> None:
        """Goes on over arrays, compiled, or over lists; all that is under way is taken along."""
        lesson, world = self._lesson, self._world
        self._fast, convert = fast, _arrays if fast else _lists
        acted_on, learnt, memory = self._tables
        learnt_now = convert(learnt)
        self._tables = (learnt_now if acted_on is learnt else convert(acted_on), learnt_now, convert(memory))
        self._log = convert(self._log)
        self._by_episode = [
            convert(decay.at(np.arange(self._course.episodes))) for decay in (lesson.explore, lesson.alpha)
        ]
        of_states = lesson.policy is not None
        if world.move is None:
            self._outcomes = convert(world.tables)
            self._run = loop(lesson.method, lesson.behaviour, of_states, fast)
            return
        self._outcomes, of = world.tables, primitives(False)
        choose, update = of.choose[lesson.behaviour], lesson.method.update(of, lesson.behaviour)
        self._run = looping(choose, world.move, world.begin, update, lesson.method, of_states)

    def _next_block(self) -> None:
        self._steps_before, self._clock = self.steps, self._clock._replace(row=0, steps=0)
        if self._compiling_pays():
            self._go_on(True)
        names = ["actions", "outcomes"] if self._world.move is None else ["actions"]
        names += ["coins"] if self._lesson.method.coins else []
        drawn = {name: self._streams.rng(f"tabular/{name}", self._block).random(BLOCK) for name in names}
        drawn = {name: numbers if self._fast else numbers.tolist() for name, numbers in drawn.items()}
        self._draws = tuple(drawn.get(name, drawn["actions"]) for name in ("actions", "outcomes", "coins"))
        self._block += 1
        knobs: list[Any] = []
        for decay, by_episode in zip((self._lesson.explore, self._lesson.alpha), self._by_episode, strict=True):
            by_step = decay.per == "step" and decay.floor < decay.start
            values = decay.at(self._steps_before + np.arange(BLOCK)) if by_step else by_episode
            knobs += [_arrays(values) if self._fast else _lists(values), by_step]
        self._knobs = tuple(knobs)

    def _compiling_pays(self) -> bool:
        if self._fast or self._course.compiled is not None or self._world.move is not None or not installed():
            return False
        finished = max(self._clock.episode, 1)
        to_come = (self._course.episodes - finished) * self.steps / finished
        return self.steps >= PLAIN_STEPS and to_come >= PLAIN_STEPS


def behaviour_policy(lesson: Lesson, table: Floats, explore: float) -> Floats:
    """The policy (S, A) that chooses from a table at this ε or temperature."""
    if lesson.policy is not None:
        return lesson.policy
    if lesson.behaviour == "softmax":
        return np.asarray(softmax_policy(table / explore))
    return epsilon_greedy_policy(table, explore)


def _lists(tree: Any) -> Any:
    """Arrays, in tuples or alone, as lists."""
    if isinstance(tree, tuple):
        return tuple(_lists(part) for part in tree)
    return tree.tolist() if isinstance(tree, np.ndarray) else tree


def _arrays(tree: Any) -> Any:
    """Lists, in tuples or alone, as arrays."""
    if isinstance(tree, tuple):
        return tuple(_arrays(part) for part in tree)
    return np.array(tree) if isinstance(tree, list) else tree
