"""The data that travels: what was collected, what one optimiser step sees, what a policy says about it.

A stream is one environment (control) or one completion (language); time is the last axis of every scalar. Contexts and
actions are trees: a tensor, or a dictionary or tuple of trees, each leaf with the stream and time axes in front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

Tree: TypeAlias = Any
"""A tensor (or array), or a dict or tuple of trees."""

if TYPE_CHECKING:  # An algorithm reads the columns that it asked for; which of them exist is checked when it runs.
    Streams: TypeAlias = Any
    Rows: TypeAlias = Any
else:
    Streams = Float[Tensor, "streams time"] | None
    Rows = Float[Tensor, "rows time"] | None


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The tree with the function applied to each leaf (and to the leaves in its place of the other trees)."""
    if isinstance(tree, dict):
        if not others:
            return {key: tree_map(function, branch) for key, branch in tree.items()}
        return {key: tree_map(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(tree_map(function, *leaves) for leaves in zip(tree, *others, strict=True))
    return function(tree, *others)


def tree_leaves(tree: Tree) -> Iterator[Any]:
    """The leaves of a tree, dictionaries in their own order."""
    if isinstance(tree, dict | tuple):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from tree_leaves(branch)
    else:
        yield tree


@dataclass(frozen=True)
class Episode:
    """One finished episode: its undiscounted return in the environment's own rewards, its length in steps."""

    stream: int
    length: int
    total_reward: float
    ended: str  # "terminated" or "truncated"


@dataclass(frozen=True)
class Sample:
    """One completion as people read it: whose group and which of it, in the texts of the model's tokenizer."""

    group: int
    index: int
    prompt: str
    completion: str
    reward: float | None
    finish_reason: str


@dataclass(frozen=True)
class Rollout:
    """Streams × time, as collected. `logp_old` is of the policy that acted; nothing here carries a gradient.

    `mask` is true on steps that were decisions of the policy: not on reset rows, not on padding. `next_values` are
    those of the states that really followed, also across a truncation; `action_values` are Q(s_t, a_t), where the
    critic is one of actions. `group` names each stream's group (the prompt).
    """

    context: Tree
    actions: Tree
    mask: Bool[Tensor, "streams time"]
    terminated: Bool[Tensor, "streams time"]
    truncated: Bool[Tensor, "streams time"]
    logp_old: Streams = None
    rewards: Streams = None
    values: Streams = None
    next_values: Streams = None
    action_values: Streams = None
    logp_ref: Streams = None
    logp_sampler: Streams = None
    group: Integer[Tensor, " streams"] | None = None
    finish_reason: tuple[str, ...] | None = None

    @property
    def cut(self) -> Bool[Tensor, "streams time"]:
        """Where credit stops: at an end, on a row that is no decision, and on the step before such a row."""
        if self.mask.all():
            return self.terminated | self.truncated
        before_unreal = torch.zeros_like(self.mask)
        before_unreal[:, :-1] = ~self.mask[:, 1:]
        return self.terminated | self.truncated | ~self.mask | before_unreal

    @property
    def steps(self) -> int:
        """How many decisions it holds."""
        return int(self.mask.sum())

    def replace(self, **changes: Any) -> Rollout:
        """The same rollout with some fields exchanged: the reward seam."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Batch:
    """Rows of one optimiser step. `mask` None: every entry is a decision.

    `tokens` and `sequences` are the counts of the *whole* batch, which every part of it inherits, so that a batch split
    into micro-batches gives the gradient of an unsplit one. `unit` numbers rows that no split may part, `length` says
    how many tokens of a row a network reads.
    """

    context: Tree
    actions: Tree
    mask: Bool[Tensor, "rows time"] | None
    tokens: int
    sequences: int
    advantages: Rows = None
    returns: Rows = None
    values_old: Rows = None
    logp_old: Rows = None
    logp_ref: Rows = None
    logp_sampler: Rows = None
    group: Integer[Tensor, " rows"] | None = None
    unit: Integer[Tensor, " rows"] | None = None
    length: Integer[Tensor, " rows"] | None = None

    @classmethod
    def of(cls, rollout: Rollout, advantages: Tensor | None = None, returns: Tensor | None = None) -> Batch:
        """A collected rollout as one batch. Reals under the mask become 0: nothing non-finite waits there."""
        columns = {
            "advantages": advantages,
            "returns": returns,
            "values_old": rollout.values,
            "logp_old": rollout.logp_old,
            "logp_ref": rollout.logp_ref,
            "logp_sampler": rollout.logp_sampler,
        }
        return cls.of_rows(rollout.context, rollout.actions, rollout.mask, group=rollout.group, **columns)

    @classmethod
    def of_rows(cls, context: Tree, actions: Tree, mask: Tensor, **columns: Tensor | None) -> Batch:
        """Given data as one batch: completions to imitate, pairs to rank."""
        if not mask.any():
            raise ValueError("the mask has no true entry; a batch needs at least one decision")
        if mask.all():
            return cls(context, actions, mask, mask.numel(), mask.shape[:-1].numel(), **columns)
        filled = {
            name: column.masked_fill(~mask, 0.0) if column is not None and column.is_floating_point() else column
            for name, column in columns.items()
        }
        return cls(context, actions, mask, int(mask.sum()), int(mask.any(-1).sum()), **filled)

    def __len__(self) -> int:
        """Number of rows."""
        return int(next(tree_leaves(self.actions)).shape[0])

    def replace(self, **changes: Any) -> Batch:
        """The same batch with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def single_steps(self) -> Batch:
        """Each decision a row of its own, stream after stream, rows that are none dropped: control's minibatches."""
        shape = next(tree_leaves(self.actions)).shape[:2]
        chosen = None if self.mask is None or self.mask.all() else self.mask.reshape(-1).nonzero().squeeze(-1)

        def flat(leaf: Tensor) -> Tensor:
            rows = leaf.reshape(-1, 1, *leaf.shape[2:])
            return rows if chosen is None else rows.index_select(0, chosen)

        def label(leaf: Tensor) -> Tensor:
            return flat(leaf[:, None].expand(shape))[:, 0]

        return self._mapped(flat, label).replace(mask=None, sequences=self.tokens)

    def rows(self, index: Tensor | slice) -> Batch:
        """Some of the rows, in that order. The counts stay those of the whole batch."""
        if isinstance(index, slice):
            return self._mapped(lambda leaf: leaf[index])
        return self._mapped(lambda leaf: leaf.index_select(0, index))

    def counted(self) -> Batch:
        """The same rows as a whole batch of their own: counts taken anew."""
        if self.mask is None:
            steps = int(next(tree_leaves(self.actions)).shape[:2].numel())
            return self.replace(tokens=steps, sequences=len(self))
        return self.replace(tokens=int(self.mask.sum()), sequences=int(self.mask.any(-1).sum()))

    def _mapped(self, function: Callable[[Tensor], Tensor], label: Callable[[Tensor], Tensor] | None = None) -> Batch:
        label = label or function
        changes: dict[str, Any] = {
            "context": tree_map(function, self.context),
            "actions": tree_map(function, self.actions),
            "mask": None if self.mask is None else function(self.mask),
        }
        for name in _COLUMNS:
            column = getattr(self, name)
            changes[name] = None if column is None else function(column)
        for name in ("group", "unit", "length"):
            column = getattr(self, name)
            changes[name] = None if column is None else label(column)
        return Batch(tokens=self.tokens, sequences=self.sequences, **changes)


_COLUMNS = ("advantages", "returns", "values_old", "logp_old", "logp_ref", "logp_sampler")


@dataclass(frozen=True)
class Evaluation:
    """What a policy now says about a batch: each field where it exists. `logp` in nats, `entropy` in nats.

    `distribution` is the policy's own object (with `kl`), for algorithms that need more than the taken action;
    `ensemble` has the values of each of several critics, for the loss by which each learns alone.
    `action_values` are Q(s, a) of the taken action, `values` then Σ_a π Q. `kl` is KL(π_old‖π) at each decision, nats.
    """

    logp: Rows = None
    entropy: Rows = None
    values: Rows = None
    distribution: Any = None
    action_values: Rows = None
    kl: Rows = None
    ensemble: Any = None

    def detach(self) -> Evaluation:
        """The same numbers without their graph; what only a gradient needs, distribution and ensemble, is dropped."""
        return self._mapped(lambda column: column.detach())

    def rows(self, index: Tensor) -> Evaluation:
        """Some of the rows, in that order; without distribution and ensemble."""
        return self._mapped(lambda column: column.index_select(0, index))

    def of_each_critic(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of a critic's values, elementwise; of an ensemble the mean of its critics' own losses.

        The loss of their mean would train them as one: what one of them overestimates another could make up for.
        """
        if self.ensemble is None:
            return loss(self.values)
        return torch.stack([loss(values) for values in self.ensemble.unbind(-1)]).mean(0)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Evaluation:
        parts = {name: getattr(self, name) for name in ("logp", "entropy", "values", "action_values", "kl")}
        return Evaluation(**{name: function(part) for name, part in parts.items() if part is not None})


class Evaluator(Protocol):
    """What an update asks of a network; of a language policy nothing else is asked."""

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities of the batch's actions, with entropies and values where they exist, (rows, time)."""
        ...


class Policy(Evaluator, Protocol):
    """What control asks of a network."""

    def noise(self, rng: Any, shape: tuple[int, ...]) -> Tensor:
        """Random numbers for that many actions, from a NumPy generator: (*shape, n), drawn once a rollout."""
        ...

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """Actions (E, …) for contexts (E, …) and noise (E, n); deterministic where the noise is None."""
        ...

    def value(self, context: Tree) -> Tensor:
        """V(s) of contexts (N, …), as (N,)."""
        ...

    def parameters(self) -> Any:
        """The parameters, as of any `torch.nn.Module`."""
        ...
