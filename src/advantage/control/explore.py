"""Steps for a replay: environments acted in ε-greedily, and what of it a run keeps and shows.

Time stands first here, environments second, as they were stepped: (T, E, …).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advantage.control.collect import Tape, check, write
from advantage.control.environments import Envs
from advantage.control.failures import in_memory
from advantage.control.normalization import Normalizer
from advantage.control.q_network import QNetwork
from advantage.control.settings import ValueBased
from advantage.trajectory import Rollout, Tree, tree_leaves, tree_map
from advantage.update import Moment

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Steps:
    """What was seen, done and paid, and where it led, (T, E, …) each.

    Attributes:
        context: what was acted upon, observations as the environment gave them.
        following: what really followed, across a truncation too; behind a termination it means nothing.
        mask: false where a step only reset its environment.
        explored: where the action was random.
    """

    context: Tree
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    mask: Array
    following: Tree
    explored: Array

    @property
    def count(self) -> int:
        """Transitions: rows that only reset are none."""
        return int(self.mask.sum())


def explore(envs: Envs, network: QNetwork, normalizer: Normalizer, epsilon: Array, rng: np.random.Generator) -> Steps:
    """As many steps of every environment as there are ε's, over the ends of episodes.

    The environments act together, with one call of the network a step, none where all of them explore.

    Args:
        envs: environments, wherever in their episodes they are; they are left where the last step ends.
        network: acts; it does not change meanwhile.
        normalizer: what the network sees observations through.
        epsilon: (T,) share of random actions at each step.
        rng: the generator of coins and random actions; one draw for all steps.

    Raises:
        NonFinite: a reward or an observation is NaN or infinite; names quantity, step and environment.
        RunFailed: an environment crashed.
    """
    if envs.resetting.all():  # or a single step would be none
        envs.step(np.zeros(envs.num_envs, np.int64))
    noise = network.noise(rng, (len(epsilon), envs.num_envs), epsilon[:, None])
    explored: Array = (noise[..., 0] < 0).numpy()
    with in_memory(train_every=len(epsilon), num_envs=envs.num_envs):
        tape = _act(envs, network, normalizer, noise, np.any(explored, axis=1))
        check(tape)
        return Steps(
            context=tree_map(lambda leaf: leaf[:-1], tape.context),
            actions=tape.actions,
            rewards=tape.rewards,
            terminated=tape.terminated,
            truncated=tape.truncated,
            mask=tape.mask,
            following=_following(tape),
            explored=explored,
        )


def epsilon(settings: ValueBased, at: Moment, num_envs: int) -> Array:
    """The share of random actions at each of the coming `train_every` steps of every environment, (T,).

    A line from `epsilon_start` to `epsilon_end` over the first `epsilon_fraction` of the budget, and 1
    before learning starts.
    """
    steps = at.steps + num_envs * np.arange(settings.train_every)
    fallen = np.minimum(1.0, steps / max(settings.epsilon_fraction * at.total, 1e-9))
    line = settings.epsilon_start + (settings.epsilon_end - settings.epsilon_start) * fallen
    return np.where(steps < settings.learning_starts, 1.0, line)


def rollout_of(taken: Sequence[Steps], network: QNetwork, normalizer: Normalizer) -> Rollout:
    """Steps of several collections as one rollout, in the network's present values: what a run keeps of an update.

    The normaliser takes its observations in, behind all that was acted and learnt with its moments. The context also
    holds "following", the context that each step led to, and "explored". Values are max_a Q(s, a).
    """
    names = ("context", "actions", "rewards", "terminated", "truncated", "mask", "following", "explored")
    joined = {
        name: tree_map(lambda *leaves: np.concatenate(leaves), *(getattr(s, name) for s in taken)) for name in names
    }
    values, next_values = (_valued(joined[name], network, normalizer) for name in ("context", "following"))
    normalizer.learn_observations(joined["context"]["observation"], joined["mask"])
    tensors = tree_map(lambda leaf: torch.from_numpy(leaf).transpose(0, 1), joined)
    return Rollout(
        context={**tensors["context"], "following": tensors["following"], "explored": tensors["explored"]},
        actions=tensors["actions"],
        mask=tensors["mask"],
        terminated=tensors["terminated"],
        truncated=tensors["truncated"],
        rewards=tensors["rewards"].to(values.dtype),
        values=values,
        next_values=next_values,
    )


def seen_through(normalizer: Normalizer, context: Tree) -> Tree:
    """A context of arrays as the tensors that the network sees."""
    if normalizer.active:
        context = context | {"observation": normalizer.observe(context["observation"])}
    return tree_map(torch.from_numpy, context)


def _act(envs: Envs, network: QNetwork, normalizer: Normalizer, noise: Tensor, explores: Array) -> Tape:
    """Steps the environments. One of them costs a few microseconds, so that nothing is made that is not needed."""
    shape = tuple(noise.shape[:2])
    context = tree_map(lambda leaf: np.empty((shape[0] + 1, *leaf.shape), leaf.dtype), envs.context)
    flags = [np.zeros(shape, bool) for _ in range(3)]
    tape = Tape(
        context, np.zeros(shape, np.int64), np.zeros(shape), flags[0], flags[1], flags[2], first_step=envs.steps
    )
    with torch.inference_mode():
        for t, random in enumerate(explores.tolist()):
            seen = envs.context
            write(context, t, seen)
            tape.mask[t] = ~envs.resetting
            tape.actions[t] = network.act(seen_through(normalizer, seen), noise[t] if random else None).numpy()
            step = envs.step(tape.actions[t])
            tape.rewards[t], tape.terminated[t], tape.truncated[t] = step.rewards, step.terminated, step.truncated
            tape.finals += [(t, env, observation) for env, observation in step.final.items()]
    write(context, shape[0], envs.context)
    return tape


def _following(tape: Tape) -> Tree:
    """The next moment, or the last observation of an episode behind which the next one is already shown.

    No environment says which actions are legal in a state that a time limit ended: there all count.
    """
    following = tree_map(lambda leaf: leaf[1:].copy(), tape.context)
    for t, env, observation in tape.finals:
        tree_map(lambda leaf, last: leaf.__setitem__((t, env), last), following["observation"], observation)  # noqa: B023
    if "action_mask" in following:
        following["action_mask"][tape.truncated] = True
    return following


def _valued(context: Tree, network: QNetwork, normalizer: Normalizer) -> Tensor:
    """max_a Q of contexts (T, E, …), as (E, T)."""
    shape = next(tree_leaves(context)).shape[:2]
    flat = tree_map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), context)
    with torch.no_grad():
        return network.value(seen_through(normalizer, flat)).view(shape).transpose(0, 1)
