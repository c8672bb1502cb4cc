"""Tables: Markov decision processes whose numbers are known, solved exactly, by planning and by learning."""

from advantage.tabular.exact import (
    exact_fisher,
    exact_natural_gradient,
    exact_policy_gradient,
    expected_return,
    performance_difference,
    policy_values,
    softmax_policy,
    state_visitation,
)
from advantage.tabular.gridworld import GridWorld
from advantage.tabular.mdp import MDP

__all__ = [
    "MDP",
    "GridWorld",
    "exact_fisher",
    "exact_natural_gradient",
    "exact_policy_gradient",
    "expected_return",
    "performance_difference",
    "policy_values",
    "softmax_policy",
    "state_visitation",
]
