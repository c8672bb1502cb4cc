"""Advantage: policy optimisation from a four-state MDP to a language model.

    import advantage
    run = advantage.train("ppo", "CartPole-v1", seed=0)
    run.evaluate(episodes=100).mean

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advantage.api import Run, load, resume, train

__version__ = "0.1.0"
__all__ = ["Run", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from advantage import api

        return getattr(api, name)
    raise AttributeError(f"module 'advantage' has no attribute {name!r}")
