"""Collection: act first, then score every step at once. Rollouts of fixed length, or whole episodes.

While it acts the policy only chooses; log-probabilities, values and V of the states that really followed come from one
call each over all steps, with the observation moments that the steps were acted with. Observations of T + 1 moments are
kept: V(s_{t+1}) is the next row's, or that of the final observation where the next row is another episode's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advantage.control.actions import Bounds
from advantage.control.environments import Envs, check_finite, finite
from advantage.control.failures import in_memory
from advantage.control.layers import learn_moments, settle_moments
from advantage.control.normalization import Normalizer
from advantage.errors import RunFailed
from advantage.trajectory import Batch, Evaluation, Policy, Rollout, Tree, tree_leaves, tree_map

Array = np.ndarray[Any, Any]


def collect(
    envs: Envs,
    policy: Policy,
    normalizer: Normalizer,
    bounds: Bounds,
    num_steps: int,
    rng: np.random.Generator,
    *,
    logp: bool = True,
) -> Rollout:
    """A rollout of `num_steps` steps of every environment, over the ends of episodes.

    Args:
        envs: environments, wherever in their episodes they are; they are left where the rollout ends.
        policy: acts and scores; its parameters do not change meanwhile.
        normalizer: its observation moments take this rollout in after it was scored.
        bounds: how raw actions meet their boxes; the raw ones are stored and scored.
        num_steps: T ≥ 1 steps of each environment.
        rng: the generator of the actions' noise; one draw for the whole rollout.
        logp: whether the steps are scored; without, the critic alone is asked, once. An objective without a ratio needs
            no more.

    Returns:
        (environments, T) with rewards, values, next_values and, where asked for, logp_old. Reset rows are masked.

    Raises:
        NonFinite: a reward, an observation or an action is NaN or infinite; names quantity, step and environment.
        RunFailed: an environment crashed.
        UserError: a rollout that does not fit in memory.
    """
    if envs.resetting.all():  # or a single step would be a rollout without a decision
        with torch.inference_mode():
            envs.step(bounds.applied(policy.act(_tensors(envs.context, normalizer), None)))
    with in_memory(num_steps=num_steps, num_envs=envs.num_envs):
        tape = _record(envs, policy, normalizer, bounds, num_steps, rng)
        return _scored(tape, policy, normalizer, logp)


def collect_episodes(
    envs: Envs, policy: Policy, normalizer: Normalizer, bounds: Bounds, episodes: int, rng: np.random.Generator
) -> Rollout:
    """Whole episodes, one a stream, padded behind their ends.

    Every environment owes the same number of episodes (the first ones one more where they do not divide evenly) and is
    waited for: taking the first `episodes` to finish instead would prefer short ones. All environments start afresh.

    Args:
        envs, policy, normalizer, bounds, rng: as for `collect`.
        episodes: how many, ≥ 1.

    Returns:
        (episodes, longest), ordered by environment, `mask` false behind an end. A truncated episode counts as whole.
        What an environment does after its own episodes, until the others have theirs, is thrown away; `envs.steps`
        counts it.

    Raises:
        NonFinite, RunFailed: as `collect`; RunFailed too where an episode has not ended behind `LONGEST` steps.
    """
    tape, starts = _episodes(envs, policy, normalizer, bounds, episodes, rng)
    return _cut_to_episodes(_scored(tape, policy, normalizer, logp=True), starts)


def collect_log(
    envs: Envs, policy: Policy, normalizer: Normalizer, bounds: Bounds, episodes: int, rng: np.random.Generator
) -> Rollout:
    """Whole episodes, as `collect_episodes` has them, for a critic that is yet to come.

    Args and raises: as for `collect_episodes`.

    Returns:
        (episodes, longest + 1): behind a stream's last decision, masked, stands the observation that a time limit cut
        off there; behind an end, where nothing follows, the last one once more.
    """
    tape, starts = _episodes(envs, policy, normalizer, bounds, episodes, rng)
    rollout = _cut_to_episodes(_scored(tape, policy, normalizer, logp=True), starts, room=1)
    seen, finals = tape.context["observation"], {(t, env): observation for t, env, observation in tape.finals}
    for stream, (env, begin, end) in enumerate(starts):
        row = end - 1 if tape.terminated[end - 1, env] else end
        ending = tree_map(lambda leaf, row=row, env=env: leaf[row, env], seen)
        if row == end:  # a time limit: the next row may be another episode's
            ending = finals.get((end - 1, env), ending)
        for leaf, last in zip(tree_leaves(rollout.context["observation"]), tree_leaves(ending), strict=True):
            leaf[stream, end - begin] = torch.from_numpy(np.asarray(last))
    return rollout


def _episodes(
    envs: Envs, policy: Policy, normalizer: Normalizer, bounds: Bounds, episodes: int, rng: np.random.Generator
) -> tuple[Tape, list[tuple[int, int, int]]]:
    """What was recorded until every environment had played what it owes, and (environment, begin, end) of each."""
    owed = np.array([len(range(i, episodes, envs.num_envs)) for i in range(envs.num_envs)])
    envs.reset()
    normalizer.start()
    tapes: list[Tape] = []
    left = owed.copy()
    while (left > 0).any():
        tapes.append(_record(envs, policy, normalizer, bounds, _CHUNK, rng, left))
        if (endless := np.flatnonzero((left > 0) & (envs.lengths >= LONGEST))).size:
            raise RunFailed(
                f"environment {endless[0]} of {envs.name} has not ended its episode in {LONGEST:,} steps; give it a"
                " time limit (max_episode_steps), or train what needs no ends: actor_critic_td, a2c, trpo or ppo"
            )
    tape = _joined(tapes)
    ended = tape.terminated | tape.truncated
    starts: list[tuple[int, int, int]] = []
    for env, quota in enumerate(owed):
        begin = 0
        for end in np.flatnonzero(ended[:, env])[:quota]:
            begin += int(np.argmax(tape.mask[begin:, env]))  # past the row that only resets
            starts.append((env, begin, int(end) + 1))
            begin = int(end) + 1
    return tape, starts


LONGEST = 100_000  # steps behind which an episode that is waited for counts as one without an end
_CHUNK = 64  # steps whose noise is drawn, and whose tape is made, at once


@dataclass
class Tape:
    """What was seen, done and paid, time first: contexts of T + 1 moments, the rest of T."""

    context: Tree
    actions: Tree
    rewards: Array
    terminated: Array
    truncated: Array
    mask: Array
    finals: list[tuple[int, int, Tree]] = field(default_factory=list)  # (step, environment, its last observation)
    first_step: int = 0


def _record(
    envs: Envs,
    policy: Policy,
    normalizer: Normalizer,
    bounds: Bounds,
    num_steps: int,
    rng: np.random.Generator,
    left: Array | None = None,
) -> Tape:
    """Steps the environments, at most until each has ended as many episodes as are `left`; nothing is scored."""
    settle_moments(policy)
    shape = (num_steps, envs.num_envs)
    noise = policy.noise(rng, shape)
    context = tree_map(lambda leaf: np.empty((num_steps + 1, *leaf.shape), leaf.dtype), envs.context)
    flags = [np.zeros(shape, bool) for _ in range(3)]
    tape = Tape(context, None, np.zeros(shape), flags[0], flags[1], flags[2], first_step=envs.steps)
    chosen = []
    with torch.inference_mode():
        for t, drawn in enumerate(noise.unbind()):
            seen = envs.context
            write(context, t, seen)
            tape.mask[t] = ~envs.resetting
            raw = policy.act(_tensors(seen, normalizer), drawn)
            chosen.append(raw)
            try:
                step = envs.step(bounds.applied(raw))
            except RunFailed:
                check(_so_far(tape, chosen))  # a NaN that was sent is named before the crash that it caused
                raise
            tape.rewards[t], tape.terminated[t], tape.truncated[t] = step.rewards, step.terminated, step.truncated
            for env, observation in step.final.items():
                tape.finals.append((t, env, observation))
            if left is not None:
                left -= step.terminated | step.truncated
                if (left <= 0).all():
                    break
        write(context, t + 1, envs.context)
        tape.actions = _stacked(chosen)
    tape = tape if t + 1 == num_steps else _shortened(tape, t + 1)
    check(tape)
    return tape


def _shortened(tape: Tape, steps: int) -> Tape:
    """The first steps of a tape."""
    columns = {name: getattr(tape, name)[:steps] for name in ("rewards", "terminated", "truncated", "mask")}
    return replace(tape, context=tree_map(lambda leaf: leaf[: steps + 1], tape.context), **columns)


def _so_far(tape: Tape, chosen: list[Tree]) -> Tape:
    """What is on a tape when a step fails: contexts and actions up to that step, rewards up to the one before."""
    seen = tree_map(lambda leaf: leaf[: len(chosen)], tape.context)
    return replace(tape, context=seen, actions=_stacked(chosen), rewards=tape.rewards[: len(chosen) - 1])


def _stacked(chosen: list[Tree]) -> Tree:
    return tree_map(lambda *leaves: torch.stack(leaves).numpy(), *chosen)


def _scored(tape: Tape, policy: Policy, normalizer: Normalizer, logp: bool) -> Rollout:
    """The tape as a rollout: what the acting policy and critic say about all of it, in one call each."""
    raw = tape.context["observation"]
    seen = tape.context | {"observation": normalizer.observe(raw)}
    context = tree_map(lambda leaf: torch.from_numpy(leaf).transpose(0, 1), seen)
    paid = normalizer.scale_rewards(tape.rewards, tape.terminated, tape.truncated, tape.mask)
    rollout = Rollout(
        context=tree_map(lambda leaf: leaf[:, :-1], context),
        actions=tree_map(lambda leaf: torch.from_numpy(leaf).transpose(0, 1), tape.actions),
        mask=_stream_first(tape.mask),
        terminated=_stream_first(tape.terminated),
        truncated=_stream_first(tape.truncated),
    )
    said = Evaluation()
    with torch.no_grad():
        if logp:
            said = policy.evaluate(Batch.of(rollout))
            if said.values is None or said.logp is None:
                raise ValueError("the policy's evaluate gave no logp or no values; collection needs both")
            last = policy.value(tree_map(lambda leaf: leaf[:, -1], context))
            values, following = said.values, torch.cat([said.values[:, 1:], last[:, None]], dim=1)
        else:
            every = policy.value(tree_map(lambda leaf: torch.from_numpy(leaf).flatten(0, 1), seen))
            moments = every.view(-1, len(rollout.mask))
            values, following = torch.stack([moments[:-1].T, moments[1:].T])  # of their own: ends are written into one
        if tape.finals:
            for (t, env, _), value in zip(tape.finals, policy.value(_ends(tape, normalizer)), strict=True):
                following[env, t] = value
    learn_moments(policy, rollout)
    normalizer.learn_observations(tree_map(lambda leaf: leaf[:-1], raw), tape.mask)
    return rollout.replace(
        logp_old=said.logp,
        rewards=_stream_first(paid).to(values.dtype),
        values=values,
        next_values=following,
        action_values=said.action_values,
    )


def _ends(tape: Tape, normalizer: Normalizer) -> Tree:
    """The final observations as contexts. Which actions were legal there nobody says: all are."""
    ends = tree_map(lambda *leaves: np.stack(leaves), *(observation for _, _, observation in tape.finals))
    found = {"observation": tree_map(torch.from_numpy, normalizer.observe(ends))}
    if "action_mask" in tape.context:
        found["action_mask"] = torch.ones(len(tape.finals), tape.context["action_mask"].shape[-1], dtype=torch.bool)
    return found


def _cut_to_episodes(rollout: Rollout, starts: list[tuple[int, int, int]], room: int = 0) -> Rollout:
    """Streams of one episode each from streams of several, (environment, begin, end) by (environment, begin, end).

    Behind an end, at least `room` times, stands the episode's first decision once more, masked: legal, and within its
    spaces.
    """
    env, begin, end = torch.tensor(starts).T.unsqueeze(-1)
    time = begin + torch.arange(int((end - begin).max()) + room)
    inside = time < end
    chosen = env, torch.where(inside, time, begin)
    columns = ("mask", "terminated", "truncated", "logp_old", "rewards", "values", "next_values", "action_values")
    present = [name for name in columns if getattr(rollout, name) is not None]
    return rollout.replace(
        context=tree_map(lambda leaf: leaf[chosen], rollout.context),
        actions=tree_map(lambda leaf: leaf[chosen], rollout.actions),
        **{name: getattr(rollout, name)[chosen].masked_fill(~inside, 0) for name in present},
    )


def _joined(tapes: list[Tape]) -> Tape:
    def of_moments(*leaves: Array) -> Array:
        return np.concatenate([*(leaf[:-1] for leaf in leaves), leaves[-1][-1:]])

    steps = np.cumsum([0] + [len(tape.rewards) for tape in tapes])
    finals = [(t + int(at), env, seen) for at, tape in zip(steps, tapes, strict=False) for t, env, seen in tape.finals]
    return Tape(
        context=tree_map(of_moments, *(tape.context for tape in tapes)),
        actions=tree_map(lambda *leaves: np.concatenate(leaves), *(tape.actions for tape in tapes)),
        rewards=np.concatenate([tape.rewards for tape in tapes]),
        terminated=np.concatenate([tape.terminated for tape in tapes]),
        truncated=np.concatenate([tape.truncated for tape in tapes]),
        mask=np.concatenate([tape.mask for tape in tapes]),
        finals=finals,
        first_step=tapes[0].first_step,
    )


def check(tape: Tape) -> None:
    """Refuses what is not finite and names the first: what was seen comes before what was done, that before its pay."""
    paid = np.where(tape.mask[: len(tape.rewards)], tape.rewards, 0.0)
    found = []
    for order, (name, tree) in enumerate(
        [("observation", tape.context["observation"]), ("action", tape.actions), ("reward", paid)]
    ):
        for leaf in tree_leaves(tree):
            if leaf.dtype.kind == "f" and not (fine := finite(leaf)).all():
                t = int(np.argwhere(~fine)[0, 0])
                found.append((t, order, name, leaf[t : t + 1]))
    for t, env, observation in tape.finals:
        for leaf in tree_leaves(observation):
            row = np.zeros((1, tape.mask.shape[1], *leaf.shape), leaf.dtype)
            row[0, env] = leaf
            found.append((t, 3, "final observation", row))
    for t, _, name, row in sorted(found, key=lambda entry: entry[:2]):
        check_finite(name, row, tape.first_step + int(tape.mask[:t].sum()))


def write(tape: Tree, t: int, seen: Tree) -> None:
    """Puts what is seen in its place of what is kept."""
    if isinstance(tape, dict):
        for key, branch in tape.items():
            write(branch, t, seen[key])
    elif isinstance(tape, tuple):
        for branch, leaf in zip(tape, seen, strict=True):
            write(branch, t, leaf)
    else:
        tape[t] = seen


def _tensors(seen: Tree, normalizer: Normalizer) -> Tree:
    if normalizer.active:
        seen = seen | {"observation": normalizer.observe(seen["observation"])}
    return tree_map(torch.from_numpy, seen)


def _stream_first(array: Array) -> Tensor:
    return torch.from_numpy(array).transpose(0, 1).contiguous()
