"""Tripwires of the update, the same in both worlds: broken numbers, large steps, entropy, gradients, advantages."""

from __future__ import annotations

from math import isfinite

from advantage.watch.tripwire import History, apart, median, recent, written

# Ratios of no spread: where the returns or advantages are all equal these are undefined, and nothing is broken.
UNDEFINED_AT_TIMES = frozenset({"train/explained_variance", "train/advantage_skew"})

FIRST_RATIO_TOLERANCE = 1e-5  # float32 noise of another batch shape is some 1e-6
FIRST_RATIO_TOKENS = 0.5  # of a language model: the largest of thousands of tokens; bfloat16 alone was seen to make 0.1

KL_UPDATES = 5  # updates in a row
KL_HIGH = 0.1  # nats an update; healthy settings reach 0.05
KL_SPIKE = 2.0  # nats in one update: the new policy is another one

ENTROPY_UPDATES = 3  # updates in a row
ENTROPY_SHARE = 0.02  # of the greatest entropy seen, for discrete actions, or
ENTROPY_NONE = 1e-3  # nats: sure from the first update on
ENTROPY_EARNED = 0.5  # a sure policy whose return stands in this upper part of the range seen has earned it
REWARDS, REWARD_ERRORS = 10, 2.0  # updates of a mean reward; standard errors by which one must have risen
DENSITY_UPDATES = 10  # updates over which the entropy of a density is compared
DENSITY_FALL = 3.0  # nats: e³ = 20 times narrower

GRADIENT_UPDATES = 3  # updates in a row
GRADIENT_DEAD = 1e-7  # norm before clipping
GRADIENT_EXPLODING = 1e3  # norm before clipping, and
GRADIENT_GROWTH = 100.0  # times the median of the
GRADIENT_PAST = 30  # updates before

SPREAD_UPDATES = 3  # updates in a row
SPREAD_SHARE = 1e-5  # of the size of the returns: float32's own noise


SEARCH_UPDATES = 5  # updates in a row

SAMPLE_UPDATES, SAMPLE_SHARE = 5, 0.05  # updates in a row; of the log's decisions


def non_finite(history: History) -> str | None:
    """Any scalar of the newest update that is NaN or infinite."""
    if not history:
        return None
    broken = [f"{key} is {x}" for key, x in history[-1].items() if not isfinite(x) and key not in UNDEFINED_AT_TIMES]
    return ", ".join(broken) or None


def first_ratio(history: History) -> str | None:
    """max |ρ − 1| on the first minibatch, before any step, when the policy is still the one that acted."""
    for error in recent(history, "train/first_ratio_error", 1):
        tolerance = FIRST_RATIO_TOKENS if "num_tokens" in history[-1] else FIRST_RATIO_TOLERANCE
        if error > tolerance:
            return (
                f"before any step a ratio differs from 1 by {error:.2g} (rounding: below {tolerance:g}): "
                "acting and learning disagree"
            )
    return None


def kl_runaway(history: History) -> str | None:
    """KL(π_old‖π) of whole updates high for a while, or one update that replaced the policy."""
    for kl in recent(history, "train/approx_kl", 1):
        if kl > KL_SPIKE:
            return f"the approximate KL of one update is {kl:.2g} nats (healthy: below {KL_HIGH})"
    kls = recent(history, "train/approx_kl", KL_UPDATES)
    if kls and min(kls) > KL_HIGH:
        return f"the approximate KL of each of the last {KL_UPDATES} updates is above {KL_HIGH} (now {kls[-1]:.2g})"
    return None


def entropy_collapse(history: History) -> str | None:
    """A policy that became sure without having earned it, or a density that narrows in a rush."""
    if history and "rollout/action_saturation" in history[-1]:  # written for continuous actions alone
        return _density_collapse(history)
    last = recent(history, "train/entropy", ENTROPY_UPDATES)
    if not last or _given_answers(history):
        return None
    greatest = max(written(history, "train/entropy"))
    if max(last) >= max(ENTROPY_NONE, ENTROPY_SHARE * greatest) or _earned(history):
        return None
    return f"the policy's entropy is {last[-1]:.2g} nats (it was {greatest:.2g}) and the return has not gained by it"


def _density_collapse(history: History) -> str | None:
    entropies = recent(history, "train/entropy", DENSITY_UPDATES)
    if not entropies or entropies[0] - entropies[-1] <= DENSITY_FALL:
        return None
    fall = f"from {entropies[0]:.3g} to {entropies[-1]:.3g} nats"
    return f"the policy's entropy fell {fall} within {DENSITY_UPDATES} updates"


def _given_answers(history: History) -> bool:
    """Whether a language model learns from given answers: to be sure of them is what is asked."""
    return "num_tokens" in history[-1] and not written(history, "reward")


def _earned(history: History) -> bool:
    if rewards := written(history, "reward"):  # of single updates: noise alone spans a range
        return len(rewards) >= REWARDS and apart(rewards[:REWARDS], rewards[-REWARDS:]) > REWARD_ERRORS
    returns = written(history, "rollout/ep_rew_mean")
    if not returns:
        return False
    worst, best = min(returns), max(returns)
    return best > worst and returns[-1] >= worst + ENTROPY_EARNED * (best - worst)


def failing_search(history: History) -> str | None:
    """Line searches that found no step, update after update: the policy stands still."""
    found = recent(history, "train/is_line_search_success", SEARCH_UPDATES)
    if not found or max(found) > 0:
        return None
    return f"the line search found no step that improves inside the KL bound, in {SEARCH_UPDATES} updates in a row"


def few_effective_samples(history: History) -> str | None:
    """Importance weights of which a handful decide: the log hardly speaks of the policy any more."""
    shares = recent(history, "train/effective_sample_size", SAMPLE_UPDATES)
    if not shares or max(shares) >= SAMPLE_SHARE:
        return None
    return (
        f"the importance weights are worth {shares[-1]:.2%} of the log's decisions, below {SAMPLE_SHARE:.0%} for"
        f" {SAMPLE_UPDATES} updates"
    )


def dead_gradients(history: History) -> str | None:
    """Gradient norms of nothing: the objective no longer reaches the parameters."""
    norms = recent(history, "train/gradient_norm", GRADIENT_UPDATES)
    if norms and max(norms) < GRADIENT_DEAD and not _equal_rewards(history):
        return f"the gradient's norm was below {GRADIENT_DEAD:g} for {GRADIENT_UPDATES} updates (now {norms[-1]:.2g})"
    return None


def exploding_gradients(history: History) -> str | None:
    """Norms large in themselves and beside the run's own past: hundreds are common where returns are large."""
    norms = recent(history, "train/gradient_norm", GRADIENT_PAST + GRADIENT_UPDATES)
    if not norms:
        return None
    usual = median(norms[:GRADIENT_PAST])
    if min(norms[GRADIENT_PAST:]) <= max(GRADIENT_EXPLODING, GRADIENT_GROWTH * usual):
        return None
    past = f"in the {GRADIENT_PAST} updates before it was {usual:.3g}"
    return f"the gradient's norm before clipping is {norms[-1]:.3g}; {past}"


def flat_advantages(history: History) -> str | None:
    """Advantages without spread, beside the size of the returns: standardising them would train on rounding noise."""
    spreads = recent(history, "train/advantage_std", SPREAD_UPDATES)
    if not spreads or _equal_rewards(history):
        return None
    row = history[-1]
    size = max(abs(row.get("train/return_mean", 0.0)), abs(row.get("train/advantage_mean", 0.0)))
    if max(spreads) > SPREAD_SHARE * size:
        return None
    return f"the advantages' spread is {spreads[-1]:.2g}, no more than rounding, for {SPREAD_UPDATES} updates"


def _equal_rewards(history: History) -> bool:
    """Whether no group of the last updates had spread: `groups_without_spread` says so, and there is no other cause."""
    shares = recent(history, "frac_reward_zero_std", SPREAD_UPDATES)
    return bool(shares) and min(shares) == 1.0
