"""The algorithms, one file each: settings, objective, loop. Here stands only what they are called."""

from __future__ import annotations

import importlib
import importlib.resources
import tomllib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from advantage.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """An algorithm's world and its line in the list."""

    world: str  # "control" or "language"
    summary: str
    discrete: bool = False  # whether it can only choose among actions that can be listed


ALGORITHMS = {
    "reinforce": Entry("control", "whole episodes, each action weighted by what came of it (Williams 1992)"),
    "actor_critic_mc": Entry("control", "REINFORCE measured against a critic, both on normalised returns"),
    "actor_critic_td": Entry("control", "n rewards, then the critic's word: learns in the middle of episodes"),
    "a2c": Entry("control", "many environments in step, one gradient over all of them (Mnih et al. 2016)"),
    "ppo_penalty": Entry("control", "importance ratios and a price on the KL that adapts (Schulman et al. 2017)"),
    "ppo": Entry("control", "clipped importance ratios, several epochs a rollout, GAE critic (Schulman et al. 2017)"),
    "trpo": Entry("control", "one natural-gradient step a rollout, searched inside a KL bound (Schulman et al. 2015)"),
    "off_policy_pg": Entry("control", "policy gradient from a log of another policy, by weights (Degris et al. 2012)"),
    "dqn": Entry("control", "Q-learning from a replay toward a target network (Mnih et al. 2015)", discrete=True),
    "sft": Entry("language", "supervised fine-tuning: cross-entropy on given answers"),
    "reward_model": Entry("language", "a score from preferences, outcomes or steps (Bradley & Terry 1952)"),
    "dpo": Entry("language", "preference pairs, the policy's own log-ratio as reward (Rafailov et al. 2023)"),
    "rlhf": Entry("language", "PPO with a critic and a price on leaving the reference (Ouyang et al. 2022)"),
    "grpo": Entry("language", "PPO whose critic is the mean reward of a prompt's completions (Shao et al. 2024)"),
    "dr_grpo": Entry("language", "GRPO without division by spread or length (Liu et al. 2025)"),
    "dapo": Entry("language", "GRPO with a higher ceiling, resampling, token mean, overlong rules (Yu et al. 2025)"),
    "rloo": Entry("language", "REINFORCE with the other completions as baseline (Ahmadian et al. 2024)"),
    "reinforce_pp": Entry("language", "REINFORCE with rewards whitened over the batch (Hu et al. 2025)"),
    "gspo": Entry("language", "GRPO with one ratio a completion (Zheng et al. 2025)"),
    "cispo": Entry("language", "GRPO with clipped weights in the place of clipped gains (MiniMax 2025)"),
}


def find(name: str) -> Entry:
    """The entry of an algorithm.

    Raises:
        UserError: there is none of that name; the message has the nearest ones.
    """
    if name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name!r}; {nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def for_any_actions() -> list[str]:
    """The algorithms of control that take every space of actions."""
    return [name for name, entry in ALGORITHMS.items() if entry.world == "control" and not entry.discrete]


def module(name: str) -> ModuleType:
    """The algorithm's file, imported: it has `Settings`, `objective` and `train`."""
    find(name)
    return importlib.import_module(f"advantage.algorithms.{name}")


def tuned(name: str, target: str) -> dict[str, Any]:
    """Settings that were measured to be good for an environment (tuned.toml), or none."""
    text = importlib.resources.files(__name__).joinpath("tuned.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text).get(name, {}).get(target, {})
    return table
