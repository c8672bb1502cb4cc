"""The stories that `advantage ladder` tells: each a list of rungs, and a rung nothing but settings of an algorithm.

Within a story all that is not named in a rung is the same for all rungs: network, γ, step size, optimiser. A rung says
what it does; whether it helps is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from advantage.algorithms import module
from advantage.errors import UserError, nearest

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Rung:
    """A step of a story.

    Attributes:
        name: of its runs' folders.
        label: in tables and pictures.
        algorithm, settings: what is run, beside what the whole story shares.
    """

    name: str
    label: str
    algorithm: str
    settings: Settings


@dataclass(frozen=True)
class Story:
    """Rungs in their order.

    Attributes:
        about: one line.
        shared: settings of every rung, where its algorithm has them.
        rungs: the last one has a critic, on whose policy all gradients are measured.
        variants: arguments of the environment, a ladder for each; those that an environment does not know are left out.
        videos: whether each rung's policy is shown playing.
    """

    about: str
    shared: Settings
    rungs: tuple[Rung, ...]
    variants: tuple[Settings, ...] = ({},)
    videos: bool = False


ENVIRONMENTS: dict[str, Settings] = {
    "CartPole-v1": {"steps": 100_000, "learning_rate": 1e-3},
    "LunarLander-v3": {"steps": 500_000, "learning_rate": 1e-3},
    "Acrobot-v1": {"steps": 200_000, "learning_rate": 1e-3},
}
"""The budget and the step size of an environment's ladders; those of another are `DEFAULTS`."""
DEFAULTS: Settings = {"steps": 200_000, "learning_rate": 1e-3}

NO_BOUND = 1e9  # more than any gradient's norm, or any ratio's distance from 1
# One environment, so that a rung is one change: how many there are is another story's rung. No bound on the gradient's
# norm, for it would be met by some rungs' objectives (sums over episodes) and not by others' (means over steps); Adam
# makes up for the difference in scale.
PLAIN: Settings = {
    "num_envs": 1, "gamma": 0.99, "network": (64, 64), "max_grad_norm": NO_BOUND, "optimizer": "adam",
    "normalize_advantages": False, "vf_coef": 0.5, "ent_coef": 0.0, "threads": 1, "log_kl": True, "record_every": 1,
}  # fmt: skip
EPISODES: Settings = {"episodes": 8}
ROLLOUT: Settings = {"num_steps": 128}
# Many passes, so that a policy may move far from its data: that is what a clip is for. The number is the zoo's for
# CartPole-v1; there, without the clip, about half of the seeds came to be sure of one action and did not come back.
REUSE: Settings = {**ROLLOUT, "gae_lambda": 0.95, "epochs": 20, "minibatch_size": 64}
UNCLIPPED: Settings = {"eps_low": NO_BOUND, "eps_high": NO_BOUND}
CLIPPED: Settings = {"eps_low": 0.2, "eps_high": 0.2}


def _reinforce(name: str, label: str, psi: str, baseline: str, **others: Any) -> Rung:
    return Rung(name, label, "reinforce", {**EPISODES, "psi": psi, "baseline": baseline, **others})


TRAJECTORY = _reinforce("trajectory", "R(τ)", "trajectory", "none")
TO_GO = _reinforce("reward-to-go", "reward-to-go", "reward_to_go", "none")

STORIES = {
    "five-fixes": Story(
        "REINFORCE, then each fix in turn up to PPO",
        PLAIN,
        (
            TRAJECTORY,
            TO_GO,
            _reinforce("baseline", "baseline", "reward_to_go", "running_mean"),
            _reinforce("critic", "learned critic", "reward_to_go", "value"),
            Rung("bootstrapping", "bootstrapping", "actor_critic_td", {**ROLLOUT, "n_step": 5}),
            Rung("gae", "GAE", "a2c", {**ROLLOUT, "gae_lambda": 0.95}),
            Rung("reuse", "reuse without clip", "ppo", {**REUSE, **UNCLIPPED}),
            Rung("clip", "clip (PPO)", "ppo", {**REUSE, **CLIPPED}),
            Rung("normalised", "normalisation", "ppo", {**REUSE, **CLIPPED, "normalize_advantages": True}),
        ),
    ),
    "three-variants": Story(
        "what an action is weighted by: R(τ), what follows it, less a learned baseline",
        PLAIN,
        (TRAJECTORY, TO_GO, _reinforce("baseline", "learned baseline", "reward_to_go", "value")),
        videos=True,
    ),
    "five-notebooks": Story(
        "REINFORCE, actor-critic by Monte Carlo and by TD, A2C, PPO",
        {**PLAIN, "max_grad_norm": 0.5},
        (
            _reinforce("reinforce", "REINFORCE", "reward_to_go", "none"),
            _reinforce("normalised", "normalised returns", "reward_to_go", "none", normalize_advantages=True),
            Rung("mc-mean", "actor-critic MC, mean", "actor_critic_mc",
                 {**EPISODES, "baseline": "running_mean", "normalize_advantages": True}),
            Rung("mc-value", "actor-critic MC, V", "actor_critic_mc",
                 {**EPISODES, "baseline": "value", "normalize_advantages": True}),
            Rung("td", "actor-critic TD", "actor_critic_td",
                 {"num_steps": 32, "n_step": 5, "normalize_advantages": True}),
            Rung("a2c", "A2C", "a2c",
                 {"num_envs": 8, "num_steps": 32, "gae_lambda": 1.0, "normalize_advantages": True}),
            Rung("ppo", "PPO", "ppo",
                 {**REUSE, **CLIPPED, "num_envs": 8, "num_steps": 256, "epochs": 10, "normalize_advantages": True}),
        ),
        variants=({}, {"continuous": True}),
    ),
}  # fmt: skip


def find_story(name: str) -> Story:
    """The story of a name.

    Raises:
        UserError: there is none; the message has the nearest ones.
    """
    if name not in STORIES:
        raise UserError(f"there is no story {name!r}; {nearest(name, STORIES)}")
    return STORIES[name]


def settings_of(story: Story, rung: Rung, environment: str) -> dict[str, Any]:
    """Every setting of a rung, those included that stay at their defaults: nothing is left to what is tuned elsewhere.

    What the story shares and the algorithm has not, is left out.
    """
    kind = module(rung.algorithm).Settings
    given = {**DEFAULTS, **ENVIRONMENTS.get(environment, {}), **story.shared, **rung.settings}
    defaults = {name: value for name, value in vars(kind()).items() if name not in given}
    own = {field.name for field in fields(kind)}
    return {**defaults, **{name: value for name, value in given.items() if name in own}}
