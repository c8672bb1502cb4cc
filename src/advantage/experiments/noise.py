"""How noisy the policy gradients of several runs are, all estimated on one frozen policy: what a rung does to variance.

    python -m advantage.experiments.noise OUT.json REFERENCE RUN…

Variances over the updates of a training cannot be compared: each rung plays another policy, in batches of another size.
So here policy, critic and environments are the reference's for all, nothing is learned, and what differs is how the
gradient is estimated: Ψ, reduction and batch, by the functions of each run's algorithm.

For each run K gradient estimates g_1 … g_K are made as its updates make them, of whole episodes or of windows of steps,
each from environments of its own. With ḡ their mean, n the mean number of steps in one, and u the unit vector along the
policy gradient,

    tr Σ = Σ_k |g_k − ḡ|² / (K − 1),   |G|² = ⟨ḡ, u⟩² − Var(⟨g, u⟩) / K,   noise scale B = n · tr Σ / |G|²

B is in environment steps: with a batch of B steps the noise is as large as what the estimate moves along the gradient.
It does not depend on the scale of an objective, nor, where its parts are independent, on the size of a batch. The
length of ḡ itself would take any direction for a signal: a critic that is wrong would make a gradient that is precise
and points elsewhere look good. u is that of Ψ = G_t − V(s_t), which no error of V biases, over as many whole episodes
again, which nothing else sees; what noise is left in it lowers the |G|² of all runs alike.

Source: McCandlish et al. 2018, equation 2.8 (the simple noise scale) and appendix A.1, with |G| along u.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from advantage.algorithms import module, reinforce
from advantage.control.actions import Bounds
from advantage.control.agent import Agent
from advantage.control.baselines import EarlierReturns, measured
from advantage.control.collect import collect, collect_episodes
from advantage.control.environments import make_envs
from advantage.control.settings import Episodic
from advantage.errors import UserError
from advantage.planning import recorded
from advantage.runs import durable
from advantage.runs.encode import dumps
from advantage.runs.reader import RunReader
from advantage.runs.streams import Streams
from advantage.settings import at
from advantage.trajectory import Batch, Rollout, tree_map
from advantage.update import estimate, normalized, returns_to_go

ESTIMATES = 128  # K
SURE = 2.0  # standard errors above 0 that a signal needs, to be one


@dataclass(frozen=True)
class Noise:
    """Of one run's gradient estimate on the reference's policy.

    Attributes:
        estimates: K.
        steps: n, the mean number of environment steps in one.
        variance: tr Σ of one, in units of the objective.
        signal: ⟨ḡ, u⟩, its mean along the gradient.
        error: the standard error of that.
    """

    estimates: int
    steps: float
    variance: float
    signal: float
    error: float

    @property
    def scale(self) -> float | None:
        """B in environment steps; None where the signal is not two standard errors above 0: K do not show it."""
        if self.signal <= SURE * self.error or self.signal <= 0.0:
            return None
        return self.steps * self.variance / (self.signal**2 - self.error**2)


@dataclass(frozen=True)
class Material:
    """What the reference's policy met: whole episodes, one an environment, and then windows of steps of the same.

    Attributes:
        direction: u, along the policy gradient, from other whole episodes.
    """

    policy: Any
    episodes: Rollout
    windows: Rollout
    direction: Tensor


def noise_of(gradients: Tensor, steps: float, direction: Tensor) -> Noise:
    """The noise of estimates (K, parameters) that took `steps` environment steps each, against a unit direction.

    Raises:
        ValueError: fewer than two.
    """
    count = len(gradients)
    if count < 2:
        raise ValueError(f"a variance needs two estimates, not {count}")
    exact, along = gradients.double(), gradients.double() @ direction.double()
    variance = float((exact - exact.mean(0)).square().sum() / (count - 1))
    return Noise(count, steps, variance, float(along.mean()), float(along.std()) / count**0.5)


def play(reference: RunReader, streams: int, steps: int, seed: int) -> Material:
    """Has a run's last policy play, in environments that nothing else uses.

    Every environment plays one whole episode and goes on until all have: their moments differ when the windows begin.

    Args:
        reference: whose policy and critic.
        streams: environments.
        steps: of a window.
        seed: of environments and actions.
    """
    planned, named = recorded(reference, None), Streams(seed)
    settings = planned.settings
    agent = Agent.of(planned.target, settings, reference.policy("last")[0])
    envs = make_envs(planned.target, streams, env_args=settings.env_args)
    envs.start(named.sub_seed("noise environments"))
    acting = (envs, agent.network, agent.normalizer, Bounds(envs.spaces.action, settings.action_bounds))
    others = collect_episodes(*acting, streams, named.rng("noise actions", 0))
    episodes = collect_episodes(*acting, streams, named.rng("noise actions", 1))
    windows = collect(*acting, steps, named.rng("noise actions", 2))
    envs.close()
    now = reinforce.Settings(gamma=settings.gamma, baseline="value", vf_coef=0.0)
    psi, targets = reinforce.credit(others, now)
    mean = _gradient(reinforce, now, agent.network, Batch.of(others, psi, targets).single_steps()).double()
    return Material(agent.network, episodes, windows, mean / mean.norm())


def measure(reference: RunReader, runs: Sequence[RunReader], estimates: int = ESTIMATES) -> dict[str, Noise]:
    """The noise of each run's gradient estimate on the reference's policy, by the names of the runs' folders.

    Raises:
        UserError: a run whose critic is one of actions, which the reference has not.
    """
    plans = {run.path.name: recorded(run, None) for run in runs}
    streams = estimates * max(_streams(planned.settings) for planned in plans.values())
    steps = max(getattr(planned.settings, "num_steps", 1) for planned in plans.values())
    material = play(reference, streams, steps, reference.config["seed"])
    found = {}
    for name, planned in plans.items():
        gradients, taken = _gradients(module(planned.algorithm), at(planned.settings, 1.0), material, estimates)
        found[name] = noise_of(gradients, taken, material.direction)
    return found


def _streams(settings: Any) -> int:
    """Episodes or environments of one update."""
    return int(settings.episodes if isinstance(settings, Episodic) else settings.num_envs)


def _gradients(algorithm: ModuleType, settings: Any, material: Material, estimates: int) -> tuple[Tensor, float]:
    """Gradient estimates (K, parameters) of the actor, and the mean number of steps in one."""
    now = replace(settings, vf_coef=0.0, ent_coef=0.0)  # the critic's part and the bonus are no estimates of ∇J
    if getattr(now, "critic", "v") != "v":
        raise UserError(f"critic is {now.critic!r}; the noise of a gradient is measured with critics of states")
    size, gradients, taken = _streams(now), [], 0
    for k in range(estimates):
        part = slice(k * size, (k + 1) * size)
        batch_of = _of_episodes if isinstance(now, Episodic) else _of_window
        data = batch_of(algorithm, now, material, part)
        taken += data.tokens
        gradients.append(_gradient(algorithm, now, material.policy, normalized(data, now)))
    return torch.stack(gradients), taken / estimates


def _gradient(algorithm: ModuleType, now: Any, policy: Any, data: Batch) -> Tensor:
    """∇ of the objective at the policy that collected the data, of all parameters that it depends on, as one vector."""
    parameters = list(policy.parameters())
    value = algorithm.objective(policy.evaluate(data), data, now)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def _of_episodes(algorithm: ModuleType, now: Any, material: Material, part: slice) -> Batch:
    """One update's batch of whole episodes. What it is measured against is taken from all the other episodes."""
    rollout, others = _cut(material.episodes, part), EarlierReturns()
    returns = returns_to_go(material.episodes, now.gamma)
    others.learn(torch.cat([returns[: part.start], returns[part.stop :]]))
    if getattr(now, "normalize_returns", False) and now.baseline == "value":  # its critic would speak in their units
        every = returns[material.episodes.mask]
        assert rollout.values is not None
        rollout = rollout.replace(values=(rollout.values - every.mean()) / every.std(correction=0))
    rollout = measured(rollout, now.baseline, others)
    psi, targets = algorithm.credit(rollout, now)
    return Batch.of(rollout, psi, targets).single_steps().replace(sequences=len(rollout.mask))


def _of_window(algorithm: ModuleType, now: Any, material: Material, part: slice) -> Batch:
    """One update's batch of steps. A PPO's is its whole rollout, at ρ = 1: where its epochs begin."""
    rollout = _cut(material.windows, part, now.num_steps)
    if hasattr(algorithm, "credit"):
        psi, targets = algorithm.credit(rollout, now)
    else:
        psi, targets = estimate(rollout, now.gamma, now.gae_lambda, now.critic_target)
    return Batch.of(rollout, psi, targets).single_steps()


def _cut(rollout: Rollout, streams: slice, steps: int | None = None) -> Rollout:
    """Some streams of a rollout, and of these the first steps."""

    def part(leaf: Tensor) -> Tensor:
        return leaf[streams, :steps]

    trees = {name: tree_map(part, getattr(rollout, name)) for name in ("context", "actions")}
    columns = {
        field.name: part(column)
        for field in fields(rollout)
        if isinstance(column := getattr(rollout, field.name), Tensor) and column.ndim == 2
    }
    return rollout.replace(**{**columns, **trees})


def main(words: Sequence[str], estimates: int = ESTIMATES) -> None:
    """Measures, and writes what was found."""
    torch.set_num_threads(1)
    out, reference, *runs = map(Path, words)
    found = measure(RunReader(reference), [RunReader(run) for run in runs], estimates)
    told = {name: {**vars(noise), "scale": noise.scale} for name, noise in found.items()}
    durable.replace(out, lambda draft: draft.write_text(dumps(told) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
