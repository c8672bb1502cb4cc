"""Behaviour policies μ: uniform over the actions, or that of a run, met through the moments that it was trained with.

They act and are scored as any policy is; they have no critic, and say 0 where one is asked.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from advantage.control.actions import Bounds
from advantage.control.distributions import Bernoulli, Categorical, Distribution, Joint, MultiCategorical
from advantage.control.normalization import Normalizer
from advantage.control.policy import make_policy
from advantage.control.settings import Control
from advantage.control.spaces import head_for
from advantage.errors import UserError
from advantage.runs.reader import RunReader
from advantage.runs.state import restore
from advantage.settings import resolve
from advantage.trajectory import Batch, Evaluation, Policy, Tree, tree_leaves, tree_map


class Behaviour:
    """What both have: a distribution of every row's actions, and no critic."""

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Noise for `act`, (*shape, n)."""
        raise TypeError("a behaviour is made by behaviour_of")

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """Actions (E, …) for raw contexts (E, …)."""
        raise TypeError("a behaviour is made by behaviour_of")

    def logp(self, batch: Batch) -> Tensor:
        """log μ(a|s), (rows, time)."""
        raise TypeError("a behaviour is made by behaviour_of")

    def evaluate(self, batch: Batch) -> Evaluation:
        """log μ(a|s), and values of 0."""
        logp = self.logp(batch)
        return Evaluation(logp=logp, values=torch.zeros_like(logp))

    def value(self, context: Tree) -> Tensor:
        """0, as (N,)."""
        return torch.zeros(len(next(tree_leaves(context))))

    def parameters(self) -> Any:
        """None that are trained."""
        return iter(())


class Uniform(Behaviour):
    """Every legal action alike; in a box every raw action between its bounds (±1 where actions are rescaled).

    Raises:
        UserError: a box without finite bounds.
    """

    def __init__(self, space: spaces.Space[Any], action_bounds: str) -> None:
        self.space, self.rescaled = space, action_bounds == "rescale"
        with torch.random.fork_rng(devices=[]):  # its weights mean nothing: only its kinds of noise are asked for
            self._head = head_for(space, 1, 0.0, False)
        _check_bounds(space)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """Of the kinds that the parts of an action are sampled by."""
        return torch.from_numpy(self._head.noise(rng, shape)).to(torch.get_default_dtype())

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """Actions (E, …); the first ones where the noise is None."""
        distribution = self._distribution(self.space, len(next(tree_leaves(context))), context.get("action_mask"))
        return distribution.mode() if noise is None else distribution.sample(noise)

    def logp(self, batch: Batch) -> Tensor:
        """−log of the number of legal actions, or of the box's volume, summed over parts."""
        shape = next(tree_leaves(batch.actions)).shape[:2]
        mask = batch.context.get("action_mask")
        distribution = self._distribution(self.space, shape.numel(), None if mask is None else mask.flatten(0, 1))
        return distribution.logp(tree_map(lambda leaf: leaf.flatten(0, 1), batch.actions)).view(shape)

    def _distribution(self, space: spaces.Space[Any], rows: int, mask: Tensor | None) -> Distribution:
        if isinstance(space, spaces.Discrete):
            return Categorical.of_logits(torch.zeros(rows, int(space.n)), mask)
        if isinstance(space, spaces.MultiDiscrete):
            sizes = tuple(int(n) for n in space.nvec)
            masks = [None] * len(sizes) if mask is None else mask.split(sizes, -1)
            parts = [Categorical.of_logits(torch.zeros(rows, n), its) for n, its in zip(sizes, masks, strict=True)]
            return MultiCategorical(tuple(parts), sizes)
        if isinstance(space, spaces.MultiBinary):
            return Bernoulli(torch.zeros(rows, *space.shape), len(space.shape))
        if isinstance(space, spaces.Box):
            low, high = (torch.as_tensor(bound, dtype=torch.get_default_dtype()) for bound in (space.low, space.high))
            if self.rescaled:
                low, high = torch.full_like(low, -1.0), torch.full_like(high, 1.0)
            return Even(low, high, rows)
        assert isinstance(space, spaces.Dict | spaces.Tuple)
        items = list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))
        sizes = tuple(_numbers(part) for _, part in items)
        kind = dict if isinstance(space, spaces.Dict) else tuple
        return Joint({key: self._distribution(part, rows, None) for key, part in items}, sizes, kind)


@dataclass(frozen=True)
class Even:
    """Uniform between bounds of an action's shape, in so many rows."""

    low: Tensor
    high: Tensor
    rows: int

    def sample(self, noise: Tensor) -> Tensor:
        """Standard normal noise (rows, n), whose share of the bell below it is uniform."""
        share = 0.5 * (1.0 + torch.erf(noise / math.sqrt(2.0)))
        return self.low + (self.high - self.low) * share.view(self.rows, *self.low.shape)

    def mode(self) -> Tensor:
        """The middle."""
        return (0.5 * (self.low + self.high)).expand(self.rows, *self.low.shape)

    def logp(self, actions: Tensor) -> Tensor:
        """−log volume between the bounds; what lies outside is never scored."""
        return -(self.high - self.low).log().sum().expand(self.rows)

    def entropy(self) -> Tensor:
        """log volume."""
        return (self.high - self.low).log().sum().expand(self.rows)

    def kl(self, other: Any) -> Tensor:
        """Not asked of a behaviour."""
        raise TypeError("a uniform behaviour has no KL here")


class Recorded(Behaviour):
    """The last policy of a run, sampled as it was in training, through its own observation moments."""

    def __init__(self, network: Policy, normalizer: Normalizer) -> None:
        self.network, self.normalizer = network, normalizer

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """The network's own."""
        return self.network.noise(rng, shape)

    def act(self, context: Tree, noise: Tensor | None) -> Tree:
        """The network's actions for raw contexts."""
        return self.network.act(self._seen(context), noise)

    def logp(self, batch: Batch) -> Tensor:
        """As the network scores its own actions."""
        logp: Tensor | None = self.network.evaluate(batch.replace(context=self._seen(batch.context))).logp
        assert logp is not None
        return logp

    def _seen(self, context: Tree) -> Tree:
        raw = tree_map(lambda leaf: leaf.numpy(), context["observation"])
        return context | {"observation": tree_map(torch.from_numpy, self.normalizer.observe(raw))}


def behaviour_of(name: str, observation: spaces.Space[Any], action: spaces.Space[Any], settings: Control) -> Behaviour:
    """The behaviour policy of a name: "uniform", or a run's directory.

    Args:
        name: of it.
        observation, action: the environment's spaces, which must be the run's.
        settings: of the learner, who scores the same raw actions.

    Raises:
        UserError: a box without bounds; no run of that name, one without a policy that has probabilities, one of other
            spaces, one that bounds its actions in another way.
    """
    if name == "uniform":
        return Uniform(action, settings.action_bounds)
    return recorded(RunReader(name), observation, action, settings)


def recorded(
    reader: RunReader, observation: spaces.Space[Any], action: spaces.Space[Any], settings: Control
) -> Recorded:
    """The policy of a run; see `behaviour_of`."""
    states, _ = reader.policy()
    if "action_bounds" not in reader.config["settings"]:  # a language model, or what acts by its values
        raise UserError(f"{reader.path}: the policy of {reader.config['algorithm']} has no probabilities to weigh by")
    known = {field.name for field in dataclasses.fields(Control)}
    own = resolve(Control, {name: value for name, value in reader.config["settings"].items() if name in known})
    if own.action_bounds != settings.action_bounds:
        raise UserError(
            f"action_bounds is {settings.action_bounds}, and {own.action_bounds} in {reader.path}: the same raw action"
            f" must mean the same to both; give action_bounds={own.action_bounds}"
        )
    policy, normalizer = make_policy(observation, action, own, 0), Normalizer(observation, 1, own)
    try:
        restore(policy, states["policy"])
        restore(normalizer, states["normalizer"])
    except UserError as error:
        raise UserError(
            f"{reader.path} was trained on {reader.config['target']}, whose spaces are not this environment's;"
            " give a run of the same environment, or uniform"
        ) from error
    return Recorded(policy, normalizer)


def _numbers(space: spaces.Space[Any]) -> int:
    """How many random numbers an action is sampled from."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(map(_numbers, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    assert space.shape is not None
    return math.prod(space.shape)


def _check_bounds(space: spaces.Space[Any]) -> None:
    boxes = [box for box in tree_leaves(Bounds(space, "clip").boxes) if box is not None]
    for box in boxes:
        if not (np.isfinite(box.low).all() and np.isfinite(box.high).all() and (box.low < box.high).all()):
            raise UserError(
                f"behaviour is uniform, and {box} is not bounded on all sides; give a run's directory instead"
            )
