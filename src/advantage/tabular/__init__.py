"""Tables: Markov decision processes whose numbers are known, solved exactly, by planning and by learning."""

from advantage.tabular.exact import (
    epsilon_greedy_policy,
    exact_fisher,
    exact_natural_gradient,
    exact_policy_gradient,
    expected_return,
    performance_difference,
    policy_values,
    reachable,
    return_within,
    softmax_policy,
    state_visitation,
)
from advantage.tabular.gridworld import GridWorld
from advantage.tabular.learning import Learned
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
from advantage.tabular.prediction import monte_carlo, n_step_td, td0, td_lambda
from advantage.tabular.schedules import Decay
from advantage.tabular.sweeps import Sweep, greedy
from advantage.tabular.td_control import (
    double_q_learning,
    expected_sarsa,
    n_step_sarsa,
    q_learning,
    sarsa,
    sarsa_lambda,
)

__all__ = [
    "MDP",
    "Decay",
    "GridWorld",
    "Learned",
    "Solution",
    "Sweep",
    "double_q_learning",
    "epsilon_greedy_policy",
    "exact_fisher",
    "exact_natural_gradient",
    "exact_policy_evaluation",
    "exact_policy_gradient",
    "expected_return",
    "expected_sarsa",
    "greedy",
    "modified_policy_iteration",
    "monte_carlo",
    "n_step_sarsa",
    "n_step_td",
    "performance_difference",
    "policy_evaluation",
    "policy_iteration",
    "policy_values",
    "prioritized_sweeping",
    "q_learning",
    "reachable",
    "return_within",
    "sarsa",
    "sarsa_lambda",
    "softmax_policy",
    "state_visitation",
    "td0",
    "td_lambda",
    "value_iteration",
]
