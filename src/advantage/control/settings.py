"""The settings that every control algorithm has, and those that every on-policy one adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advantage.errors import UserError
from advantage.settings import Common, Schedule, setting


@dataclass(frozen=True)
class Environments(Common):
    """What it takes to meet environments and to train a network in them, whatever it learns."""

    num_envs: int = setting(8, "environments stepped together", low=1)
    env_args: dict[str, Any] = setting({}, "arguments of the environment, also by --env NAME=VALUE")
    eval_max_steps: int = setting(100_000, "longest episode of an evaluation; a longer one fails", unit="steps", low=1)
    vectorization: str = setting("auto", "how they are stepped", choices=("auto", "sync", "async"))
    gamma: float = setting(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = setting("lin_3e-4", "step size of the optimiser", low=0)
    adam_eps: float = setting(1e-5, "ε in the divisor of Adam, or of RMSprop", above=0)
    max_grad_norm: float = setting(0.5, "bound on the gradient's global norm", above=0)
    network: tuple[int, ...] = setting((64, 64), "hidden layers of each trunk", unit="units", low=1)
    activation: str = setting("tanh", "nonlinearity between layers", choices=("tanh", "relu", "silu"))
    layer_norm: bool = setting(False, "normalise each hidden layer before its nonlinearity")
    normalize_observations: bool = setting(False, "observations to mean 0, std 1, by running moments")
    observation_clip: float = setting(10.0, "bound on normalised observations", above=0)
    numerics: str = setting("advantage", "whose arithmetic, where peers differ", choices=("advantage", "sb3"))


@dataclass(frozen=True)
class Control(Environments):
    """What a policy over any space of actions has besides, with a critic beside it."""

    batch_norm: bool = setting(False, "normalise each hidden layer by running moments, frozen during an update")
    share_trunk: bool = setting(False, "one trunk for actor and critic")
    critics: int = setting(1, "critics, each trained by itself on the same targets", low=1)
    critics_value: str = setting("mean", "what V is of several critics", choices=("mean", "least"))
    orthogonal_init: bool = setting(True, "orthogonal weights: √2 hidden, .01 action head, 1 value head; else torch's")
    log_std_init: float = setting(0.0, "log of a Gaussian's standard deviation at the start")
    state_dependent_std: bool = setting(False, "log-std as a head of the state, not a parameter")
    full_covariance: bool = setting(False, "a Gaussian whose entries may correlate (Cholesky factor)")
    action_bounds: str = setting("clip", "how a raw continuous action meets its box", choices=("clip", "rescale"))
    normalize_rewards: bool = setting(False, "rewards divided by the running std of their discounted sum")
    reward_clip: float = setting(10.0, "bound on normalised rewards", above=0)


@dataclass(frozen=True)
class ValueBased(Environments):
    """What it takes to learn the values of discrete actions from remembered steps."""

    num_envs: int = setting(1, "environments stepped together", low=1)
    learning_rate: Schedule = setting(5e-4, "step size of Adam", low=0)
    adam_eps: float = setting(1e-8, "ε in Adam's divisor", above=0)
    max_grad_norm: float = setting(10.0, "bound on the gradient's global norm", above=0)
    activation: str = setting("relu", "nonlinearity between layers", choices=("tanh", "relu", "silu"))
    double: bool = setting(False, "the network chooses the next action, the target network values it")
    dueling: bool = setting(False, "V(s) and the advantages of the actions as two heads (Wang et al. 2016)")
    epsilon_start: float = setting(1.0, "share of random actions at the start", low=0, high=1)
    epsilon_end: float = setting(
        0.05, "share of random actions at the end, and of a policy that explores", low=0, high=1
    )
    epsilon_fraction: float = setting(0.1, "share of the budget over which it goes, in a line", low=0, high=1)
    learning_starts: int = setting(1_000, "steps at random before anything is learnt", unit="steps", low=0)
    train_every: int = setting(4, "steps of each environment between two rounds of learning", low=1)
    gradient_steps: int | None = setting(1, "optimiser steps of such a round; none for one a step taken", low=1)
    minibatch_size: int = setting(64, "transitions of one optimiser step", low=1)
    buffer_size: int = setting(100_000, "transitions that the replay holds", low=1)
    n_step: int = setting(1, "rewards that are summed before the bootstrap", low=1)
    replay: str = setting("uniform", "which transitions are drawn", choices=("uniform", "prioritized"))
    priority_alpha: float = setting(0.6, "prioritized: 0 is uniform, 1 in proportion to |δ|", low=0, high=1)
    priority_beta: float = setting(0.4, "prioritized: how far weights undo it; rises in a line to 1", low=0, high=1)
    log_every: int = setting(1_000, "steps of a row of metrics, behind which a checkpoint may be", unit="steps", low=1)

    def __post_init__(self) -> None:
        """Refuses a replay smaller than a minibatch, and a run that ends before it learns."""
        if self.buffer_size < self.minibatch_size:
            raise UserError(f"buffer_size is {self.buffer_size}; give minibatch_size, {self.minibatch_size}, or more")
        if self.learning_starts >= self.steps:
            raise UserError(
                f"learning_starts is {self.learning_starts} and the run has {self.steps} steps; lower learning_starts"
            )


@dataclass(frozen=True)
class PolicyGradient(Control):
    """What it takes to climb an objective of the policy, and of a critic where there is one."""

    normalize_advantages: bool = setting(True, "advantages to mean 0, std 1 over the rows of an optimiser step")
    vf_coef: float = setting(0.5, "weight of ½·error² of the critic (SB3's number doubled)", low=0)
    ent_coef: Schedule = setting(0.0, "weight of the entropy bonus", low=0)
    micro_batch: int | None = setting(None, "rows that fit in memory at once; none for all", low=1)
    log_kl: bool = setting(False, "log how far each update moves the policy, by one more look at its rollout")
    record_every: int = setting(1, "updates from one row of metrics to the next", low=1)


@dataclass(frozen=True)
class Episodic(PolicyGradient):
    """What it takes to learn from whole episodes of the present policy."""

    num_envs: int = setting(1, "environments stepped together; the more, the more steps are thrown away", low=1)
    episodes: int = setting(8, "whole episodes of an update", low=1)
    discount_from_start: bool = setting(False, "γ^t in front of each term: the gradient of the discounted J itself")


@dataclass(frozen=True)
class OnPolicy(PolicyGradient):
    """What it takes to learn from rollouts of the present policy, over the ends of episodes."""

    num_steps: int = setting(128, "steps of each environment in a rollout", low=1)
    gae_lambda: float = setting(0.95, "λ of GAE: 0 believes the critic, 1 the returns", low=0, high=1)
    critic_target: str = setting(
        "lambda_return",
        "what the critic learns: Â + V by the λ of GAE, the return G_t, or r + γV(s')",
        choices=("lambda_return", "return", "td"),
    )


@dataclass(frozen=True)
class Minibatched(OnPolicy):
    """What it takes to use a rollout more than once."""

    epochs: int = setting(10, "passes over a rollout", low=1)
    minibatch_size: int = setting(64, "rows of one optimiser step", unit="steps", low=1)

    def __post_init__(self) -> None:
        """Refuses a minibatch that no rollout fills."""
        rollout = self.num_envs * self.num_steps
        if self.minibatch_size > rollout:
            raise UserError(
                f"minibatch_size is {self.minibatch_size}; a rollout has num_envs × num_steps = {rollout} steps"
            )
