"""Our settings in the words of Stable-Baselines3 2.9.2 and sb3-contrib 2.9.2, and their algorithms made of them.

What they have no word for must be as it is by default here, else it is refused: a comparison is of the same settings or
none. Two are ours alone by default, in TRPO: the weight of the critic's loss, which Adam divides out again, and the
clip of its gradient. Arithmetic stays each library's own (core/dialects.py).
"""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from typing import Any

from advantage.errors import UserError

PEERS = {
    "a2c": ("stable_baselines3", "A2C"),
    "dqn": ("stable_baselines3", "DQN"),
    "ppo": ("stable_baselines3", "PPO"),
    "trpo": ("sb3_contrib", "TRPO"),
}

SHARED = {"learning_rate": "learning_rate", "gamma": "gamma"}
CLIPPED = {"max_grad_norm": "max_grad_norm"}
ON_POLICY = SHARED | {
    "num_steps": "n_steps",
    "gae_lambda": "gae_lambda",
    "normalize_advantages": "normalize_advantage",
}
ONE_LOSS = ON_POLICY | CLIPPED | {"vf_coef": "vf_coef", "ent_coef": "ent_coef"}
WORDS = {
    "a2c": ONE_LOSS,
    "dqn": SHARED
    | CLIPPED
    | {
        "buffer_size": "buffer_size",
        "learning_starts": "learning_starts",
        "minibatch_size": "batch_size",
        "train_every": "train_freq",
        "gradient_steps": "gradient_steps",
        "n_step": "n_steps",
        "target_update_every": "target_update_interval",
        "tau": "tau",
        "epsilon_start": "exploration_initial_eps",
        "epsilon_end": "exploration_final_eps",
        "epsilon_fraction": "exploration_fraction",
    },
    "ppo": ONE_LOSS
    | {
        "minibatch_size": "batch_size",
        "epochs": "n_epochs",
        "eps_low": "clip_range",
        "value_clip": "clip_range_vf",
        "target_kl": "target_kl",
    },
    "trpo": ON_POLICY
    | {
        "minibatch_size": "batch_size",
        "critic_epochs": "n_critic_updates",
        "target_kl": "target_kl",
        "cg_iterations": "cg_max_steps",
        "cg_damping": "cg_damping",
        "line_search_tries": "line_search_max_iter",
        "line_search_shrink": "line_search_shrinking_factor",
    },
}
VALUES = {"network": "net_arch", "activation": "activation_fn"}
ACTOR_CRITIC = VALUES | {"orthogonal_init": "ortho_init", "log_std_init": "log_std_init"}
POLICY = {"a2c": ACTOR_CRITIC, "dqn": VALUES, "ppo": ACTOR_CRITIC, "trpo": ACTOR_CRITIC}
NORMALIZE = {
    "normalize_observations": "norm_obs",
    "normalize_rewards": "norm_reward",
    "observation_clip": "clip_obs",
    "reward_clip": "clip_reward",
    "gamma": "gamma",
}

SCHEDULED = {"learning_rate", "eps_low", "eps_high"}  # the others are numbers in their constructors
ELSEWHERE = {"steps", "num_envs", "env_args", "threads", "eps_high", "adam_eps", "optimizer", "rms_alpha"}
# How a run is kept, logged and laid out: nothing that is learnt depends on it.
OF_THE_RUN = {"eval_every", "eval_episodes", "eval_max_steps", "checkpoint_every", "keep_checkpoints", "vectorization"}
OF_THE_RUN |= {"micro_batch", "log_kl", "record_every", "log_every"}


def check(algorithm: str, settings: Any) -> None:
    """Looks whether they can have all of an algorithm's settings.

    Raises:
        UserError: one for which they have no word.
    """
    said = {*WORDS[algorithm], *POLICY[algorithm], *NORMALIZE, *ELSEWHERE, *OF_THE_RUN}
    library = ".".join(PEERS[algorithm])
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in said and value != default:
            raise UserError(f"{field.name} is {value!r}, for which {library} has no word; leave it at {default!r}")
        if isinstance(value, str) and value.startswith(("lin_", "cos_")) and field.name not in SCHEDULED:
            raise UserError(f"{field.name} is {value!r}; {library} takes a number there")
        if isinstance(value, str) and value.startswith("cos_"):
            raise UserError(f"{field.name} is {value!r}, for which {library} has no word; it has lines, as in lin_1e-3")
    if algorithm == "ppo" and settings.eps_low != settings.eps_high:
        raise UserError(f"eps_low is {settings.eps_low} and eps_high {settings.eps_high}; {library} has one clip_range")


def make(algorithm: str, environment: str, settings: Any, seed: int) -> Any:
    """Their algorithm with our settings, which are checked, ready to learn, on environments of its own.

    The settings are anything with their names: a process that measures theirs need not hold ours.
    """
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(settings.threads)
    arguments = {"render_mode": None, **settings.env_args}
    envs: Any = make_vec_env(environment, settings.num_envs, seed=seed, env_kwargs=arguments)
    if wrapping := normalizing(settings):
        envs = VecNormalize(envs, **wrapping)
    package, name = PEERS[algorithm]
    kind = getattr(importlib.import_module(package), name)
    return kind("MlpPolicy", envs, seed=seed, device="cpu", **constructor(algorithm, settings))


def constructor(algorithm: str, settings: Any) -> dict[str, Any]:
    """The arguments of their constructor, beside policy, environment, seed and device."""
    found = {theirs: _value(name, getattr(settings, name)) for name, theirs in WORDS[algorithm].items()}
    if algorithm == "a2c":
        found["use_rms_prop"] = False  # else it would choose the optimiser that `policy` names
    return found | {"policy_kwargs": policy(algorithm, settings)}


def policy(algorithm: str, settings: Any) -> dict[str, Any]:
    """The arguments of their policy: the network, and the optimiser with its ε."""
    import torch
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    kinds = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "rmsprop_tf": RMSpropTFLike}
    optimizer = getattr(settings, "optimizer", "adam")
    more = {} if optimizer == "adam" else {"alpha": settings.rms_alpha}
    found = {theirs: _value(name, getattr(settings, name)) for name, theirs in POLICY[algorithm].items()}
    return found | {"optimizer_class": kinds[optimizer], "optimizer_kwargs": {"eps": settings.adam_eps, **more}}


def normalizing(settings: Any) -> dict[str, Any]:
    """The arguments of their VecNormalize; none where nothing is normalised."""
    found = {theirs: getattr(settings, name, False) for name, theirs in NORMALIZE.items()}
    return found if found["norm_obs"] or found["norm_reward"] else {}


def _value(name: str, value: Any) -> Any:
    """Ours as they write it: their value loss has no ½, their schedules are functions of what is left."""
    from stable_baselines3.common.utils import LinearSchedule
    from torch import nn

    if name == "vf_coef":
        return 0.5 * value
    if name == "gradient_steps":
        return -1 if value is None else value
    if name == "activation":
        return {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}[value]
    if name == "network":
        return list(value)
    return LinearSchedule(float(value[4:]), 0.0, 1.0) if isinstance(value, str) else value
