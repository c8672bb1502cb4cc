"""Exact answers by linear algebra: values, state visitation, policy gradient, natural gradient of a table.

They are the oracle against which sampled estimates are tested.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg
from scipy.sparse import csgraph

from advantage.errors import UserError
from advantage.tabular.arrays import Bools, Floats, distributions, in_kind, numbers, plain, real, whole
from advantage.tabular.mdp import MDP, check_model


def policy_table(mdp: MDP, policy: Any) -> Floats:
    """A policy π(a|s) as (S, A) float64, checked.

    Raises:
        UserError: `mdp` is none, or `policy` no table of distributions.
    """
    check_model(mdp)
    return distributions("policy", policy, (mdp.num_states, mdp.num_actions))


def policy_values(mdp: MDP, policy: Any) -> Floats:
    """Values (S,) of a policy, the solution of V = R_π + γ P_π V.

    Raises:
        UserError: `policy` is none, or γ = 1 and it cannot end from some state.
    """
    table = policy_table(mdp, policy)
    check_ends(mdp, table)
    return _solve(transitions_under(mdp, table), mdp.gamma, (table * mdp.R).sum(1))


@in_kind
def state_visitation(mdp: MDP, policy: Any) -> Floats:
    """How often each state is acted in, discounted and summed over an episode.

        d(s) = Σ_t γ^t Pr(s_t = s, the episode has not ended),   d = start + γ P_πᵀ d

    Args:
        mdp: the process.
        policy: (S, A) π(a|s).

    Returns:
        (S,), not normalised: without terminal states it sums to 1/(1 − γ). Terminal states have 0, since nothing is
        done there. A torch tensor where `policy` is one.

    Raises:
        UserError: `policy` is none, or γ = 1 and it cannot end from some state.

    Source: Sutton et al. 2000, theorem 1.
    """
    table = policy_table(mdp, policy)
    check_ends(mdp, table)
    following = transitions_under(mdp, table).T
    visits = _solve(following if sparse.issparse(following) else np.ascontiguousarray(following), mdp.gamma, mdp.start)
    return np.where(mdp.terminal, 0.0, visits)


def expected_return(mdp: MDP, policy: Any) -> float:
    """J(π) = Σ_s start(s) V^π(s), in units of reward."""
    return float(mdp.start @ policy_values(mdp, policy))


def return_within(mdp: MDP, policy: Any, steps: int) -> float:
    """Expected undiscounted return of the first `steps` steps of an episode: what a time limit leaves of it."""
    table = policy_table(mdp, policy)
    paid, onward = (table * mdp.R).sum(1), transitions_under(mdp, table)
    values = np.zeros(mdp.num_states)
    for _ in range(whole("steps", steps, 0)):
        values = paid + onward @ values
    return float(mdp.start @ values)


def reachable(mdp: MDP) -> Bools:
    """bool (S,): the states that an episode can come to, those of its start and its end included."""
    check_model(mdp)
    states, actions = mdp.num_states, mdp.num_actions
    every = np.tile(np.arange(states), actions)
    any_action = sparse.csr_array((np.ones(every.size), (every, np.arange(every.size))), shape=(states, every.size))
    return _spread(any_action @ sparse.csr_array(mdp.transitions), mdp.start > 0)


def epsilon_greedy_policy(q: Any, epsilon: float) -> Floats:
    """π(a|s) = (1 − ε) [a is best] / (how many are) + ε / A of action values (S, A); ties are exact ones.

    Raises:
        UserError: ε outside [0, 1], or `q` is no finite table.
    """
    share, table = real("epsilon", epsilon, 0.0, 1.0), plain("q", q)
    if table.ndim != 2:
        raise UserError(f"q has shape {table.shape}; it must be (states, actions)")
    best = numbers("q", table, table.shape) == table.max(1, keepdims=True)
    found: Floats = (1.0 - share) * best / best.sum(1, keepdims=True) + share / table.shape[1]
    return found


@in_kind
def softmax_policy(logits: Any) -> Floats:
    """π(a|s) = exp θ(s, a) / Σ_b exp θ(s, b) of a table of logits (S, A)."""
    array = plain("logits", logits)
    numbers("logits", array, array.shape)
    weights = np.exp(array - array.max(-1, keepdims=True))
    found: Floats = weights / weights.sum(-1, keepdims=True)
    return found


@in_kind
def exact_policy_gradient(mdp: MDP, logits: Any) -> Floats:
    """Gradient of J(θ) = Σ_s start(s) V^π(s) for a softmax table, without sampling.

        ∂J/∂θ(s, a) = d(s) π(a|s) A(s, a)

    Args:
        mdp: the process.
        logits: (S, A) θ.

    Returns:
        (S, A), in units of reward per logit; every row sums to 0. A torch tensor where `logits` is one.

    Raises:
        UserError: `logits` is not (S, A) or not finite; γ = 1 and the policy cannot end.

    Source: Sutton et al. 2000, theorem 1; Agarwal et al. 2021, lemma C.1.
    """
    policy, visits, advantages = _at(mdp, logits)
    return visits[:, None] * policy * advantages


@in_kind
def exact_fisher(mdp: MDP, logits: Any) -> Floats:
    """Fisher matrix of a softmax table, the Hessian of the mean KL between the policy and its neighbours.

        F = Σ_s μ(s) ∇² KL(π_θ(·|s)‖π(·|s)),   in the block of s: μ(s) (diag π(·|s) − π(·|s) π(·|s)ᵀ)

    μ = d / Σ d is the discounted visitation as a distribution over states.

    Returns:
        (S·A, S·A), symmetric, in the order of `logits.reshape(-1)`; blocks of states that are never visited are 0.
    """
    policy, visits, _ = _at(mdp, logits)
    states, actions = policy.shape
    found = np.zeros((states, actions, states, actions))
    found[np.arange(states), :, np.arange(states), :] = (visits / visits.sum())[:, None, None] * _blocks(policy)
    return found.reshape(states * actions, states * actions)


@in_kind
def exact_natural_gradient(mdp: MDP, logits: Any, damping: float = 0.0) -> Floats:
    """Direction of steepest ascent where steps are measured in mean KL.

        (F + damping·I) x = ∇J,   F of `exact_fisher`

    Args:
        mdp: the process.
        logits: (S, A) θ.
        damping: ≥ 0, added to the diagonal.

    Returns:
        (S, A). Without damping the least-norm solution: Σ d · (A(s, ·) − mean_a A(s, a)) in every state that is
        visited, 0 elsewhere.

    Raises:
        UserError: as `exact_policy_gradient`; `damping` < 0.

    Source: Kakade 2001; Agarwal et al. 2021, lemma 5.1.
    """
    if not 0.0 <= real("damping", damping) < np.inf:
        raise UserError(f"damping is {damping}; it must be at least 0 and finite")
    policy, visits, advantages = _at(mdp, logits)
    if damping == 0:
        centred = visits.sum() * (advantages - advantages.mean(1, keepdims=True))
        return np.where(visits[:, None] > 0, centred, 0.0)
    blocks = (visits / visits.sum())[:, None, None] * _blocks(policy)
    gradient = visits[:, None] * policy * advantages
    return np.linalg.solve(blocks + damping * np.eye(policy.shape[1]), gradient[:, :, None])[:, :, 0]


def performance_difference(mdp: MDP, policy: Any, other: Any) -> float:
    """J(other) − J(policy) by the advantages of `policy` in the states of `other`.

        J(π') − J(π) = Σ_s d^π'(s) Σ_a π'(a|s) A^π(s, a)

    Source: Kakade & Langford 2002, lemma 6.1.
    """
    values = policy_values(mdp, policy)
    advantages = mdp.q(values) - values[:, None]
    table = policy_table(mdp, other)
    return float(np.asarray(state_visitation(mdp, table)) @ (table * advantages).sum(1))


def transitions_under(mdp: MDP, policy: Floats) -> Any:
    """P_π(s'|s) = Σ_a π(a|s) P(s'|s, a), (S, S), dense or sparse as the MDP is."""
    states, actions = mdp.num_states, mdp.num_actions
    if not mdp.is_sparse:
        return np.einsum("sa,ast->st", policy, mdp.P)
    every = np.arange(states)
    rows, columns = np.tile(every, actions), np.arange(actions * states)
    mixing = sparse.csr_array((policy.T.reshape(-1), (rows, columns)), shape=(states, actions * states))
    return mixing @ mdp.transitions


def check_ends(mdp: MDP, policy: Floats) -> None:
    """Refuses, at γ = 1, a policy under which some state never comes to an end: its value need not exist.

    Raises:
        UserError: there is such a state; the message names one.
    """
    if mdp.gamma < 1.0:
        return
    if (stuck := np.flatnonzero(~_can_end(mdp, policy))).size:
        raise UserError(
            f"gamma is 1 and the policy never ends from state {stuck[0]} ({stuck.size} such states);"
            " give gamma < 1, or a policy that reaches a terminal state"
        )


def _can_end(mdp: MDP, policy: Floats) -> Bools:
    """States from which a terminal one is reached with positive probability; surely, where all states are such."""
    return _spread(sparse.csr_array(transitions_under(mdp, policy)).T, mdp.terminal)


def _spread(onward: Any, begun: Bools) -> Bools:
    """All that is reached from some nodes along the entries of (S, S)."""
    ways, first = sparse.coo_array(onward), np.flatnonzero(begun)
    rows = np.concatenate([ways.row, np.full(first.size, begun.size)])  # one more node, with a way to each of the first
    columns = np.concatenate([ways.col, first])
    graph = sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(begun.size + 1, begun.size + 1))
    found = np.zeros(begun.size + 1, np.bool_)
    found[csgraph.breadth_first_order(graph, begun.size, return_predecessors=False)] = True
    return found[:-1]


def _solve(matrix: Any, gamma: float, right: Floats) -> Floats:
    """x with x = right + γ matrix x."""
    if sparse.issparse(matrix):
        system = sparse.csc_array(sparse.eye_array(right.size) - gamma * matrix)
        return np.asarray(scipy.sparse.linalg.spsolve(system, right))
    return np.linalg.solve(np.eye(right.size) - gamma * matrix, right)


def _at(mdp: MDP, logits: Any) -> tuple[Floats, Floats, Floats]:
    """Policy, visitation and advantages of a softmax table."""
    check_model(mdp)
    policy = np.asarray(softmax_policy(numbers("logits", logits, (mdp.num_states, mdp.num_actions))))
    values = policy_values(mdp, policy)
    return policy, np.asarray(state_visitation(mdp, policy)), mdp.q(values) - values[:, None]


def _blocks(policy: Floats) -> Floats:
    """diag π − π πᵀ of every state, (S, A, A)."""
    return policy[:, :, None] * np.eye(policy.shape[1]) - policy[:, :, None] * policy[:, None, :]
