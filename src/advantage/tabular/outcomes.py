"""What can follow each (state, action), flat: for loops over single outcomes, in Python lists or in arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse

from advantage.tabular.arrays import Bools, Floats, Ints
from advantage.tabular.mdp import MDP


class Outcomes(NamedTuple):
    """The outcomes k of action a in state s are offsets[s][a] ≤ k < offsets[s][a + 1]; K of them in all.

    Attributes:
        offsets: (S, A + 1).
        probabilities: (K,).
        cumulative: (K,) sums of `probabilities` within each (s, a): the first that exceeds a uniform number is drawn.
        successors: (K,) next states.
        rewards: (K,).
        ends: (K,) whether the next state is terminal.
    """

    offsets: Ints
    probabilities: Floats
    cumulative: Floats
    successors: Ints
    rewards: Floats
    ends: Bools


def outcomes_of(mdp: MDP) -> Outcomes:
    """The outcomes of an MDP; where it knows mean rewards only, each pays the mean."""
    states, actions = mdp.num_states, mdp.num_actions
    stacked = sparse.csr_array(mdp.transitions)
    stacked.sort_indices()
    by_state = np.arange(actions * states).reshape(actions, states).T.reshape(-1)
    places = sparse.csr_array((np.arange(stacked.nnz), stacked.indices, stacked.indptr), shape=stacked.shape)[by_state]
    order, indptr = places.data, places.indptr.astype(np.int64)
    offsets = np.column_stack([indptr[:-1].reshape(states, actions), indptr[actions::actions]])
    probabilities = stacked.data[order]
    successors = stacked.indices[order].astype(np.int64)
    rewards = _rewards(mdp, stacked)[order]
    cumulative = _running_sums(probabilities, indptr)
    return Outcomes(offsets, probabilities, cumulative, successors, rewards, mdp.terminal[successors])


def predecessors_of(mdp: MDP) -> Any:
    """(S, S) CSR: row s' holds max_a P(s'|s, a) of every s that can lead to s'."""
    parts = mdp.P if mdp.is_sparse else [sparse.csr_array(part) for part in mdp.P]
    most = parts[0]
    for part in parts[1:]:
        most = most.maximum(part)
    return sparse.csr_array(most.T)


def _rewards(mdp: MDP, stacked: Any) -> Floats:
    """Rewards in the order of the stacked table's data."""
    rows = np.repeat(np.arange(stacked.shape[0]), np.diff(stacked.indptr))
    if mdp.transition_rewards is None:
        return np.asarray(mdp.R.T.reshape(-1)[rows])
    if mdp.is_sparse:
        paid = sparse.csr_array(
            (mdp.transition_rewards, mdp.transitions.indices, mdp.transitions.indptr), stacked.shape
        )
        paid.sort_indices()
        return np.asarray(paid.data)
    return np.asarray(mdp.transition_rewards[rows, stacked.indices])


def _running_sums(probabilities: Floats, indptr: Ints) -> Floats:
    """Sums within each row, added from its first entry on."""
    sums, starts, lengths = probabilities.copy(), indptr[:-1], np.diff(indptr)
    for place in range(1, int(lengths.max(initial=0))):
        here = starts[lengths > place] + place
        sums[here] += sums[here - 1]
    return sums
