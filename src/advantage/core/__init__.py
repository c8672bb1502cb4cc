"""Pure functions on tensors from which every algorithm of the library is made, for control and for language alike.

Time is the last axis of every tensor, any leading batch shape is allowed, and nothing is broadcast. Objectives are
maximised; what is named a loss is minimised. Nothing here performs I/O or holds state.
"""

from advantage.core.advantages import gae, lambda_return, n_step_advantage
from advantage.core.baselines import group_advantages, group_mean, leave_one_out
from advantage.core.objectives import cispo, clipped_surrogate, policy_gradient, surrogate
from advantage.core.preferences import bradley_terry_loss, dpo_loss, implicit_reward, ipo_loss
from advantage.core.ratio import kl_k1, kl_k2, kl_k3, likelihood_ratio, sequence_ratio, truncated_importance
from advantage.core.reduce import fixed_length_mean, sequence_mean, token_mean
from advantage.core.returns import discounted_return, td_residual
from advantage.core.rewards import discounts, kl_reward, overlong_penalty, terminal_reward, traces
from advantage.core.standardize import standardize
from advantage.core.trust_region import conjugate_gradient, fisher, fisher_vector_product, line_search
from advantage.core.values import clipped_value_loss, double_q_target, q_learning_target, sarsa_target, value_loss

__all__ = [
    "bradley_terry_loss",
    "cispo",
    "clipped_surrogate",
    "clipped_value_loss",
    "conjugate_gradient",
    "discounted_return",
    "discounts",
    "double_q_target",
    "dpo_loss",
    "fisher",
    "fisher_vector_product",
    "fixed_length_mean",
    "gae",
    "group_advantages",
    "group_mean",
    "implicit_reward",
    "ipo_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_reward",
    "lambda_return",
    "leave_one_out",
    "likelihood_ratio",
    "line_search",
    "n_step_advantage",
    "overlong_penalty",
    "policy_gradient",
    "q_learning_target",
    "sarsa_target",
    "sequence_mean",
    "sequence_ratio",
    "standardize",
    "surrogate",
    "td_residual",
    "terminal_reward",
    "token_mean",
    "traces",
    "truncated_importance",
    "value_loss",
]
