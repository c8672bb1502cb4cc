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
from advantage.tabular.planning import (
    Solution,
    exact_policy_evaluation,
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    prioritized_sweeping,
    value_iteration,
)
from advantage.tabular.sweeps import Sweep, greedy

__all__ = [
    "MDP",
    "GridWorld",
    "Solution",
    "Sweep",
    "exact_fisher",
    "exact_natural_gradient",
    "exact_policy_evaluation",
    "exact_policy_gradient",
    "expected_return",
    "greedy",
    "modified_policy_iteration",
    "performance_difference",
    "policy_evaluation",
    "policy_iteration",
    "policy_values",
    "prioritized_sweeping",
    "softmax_policy",
    "state_visitation",
    "value_iteration",
]
