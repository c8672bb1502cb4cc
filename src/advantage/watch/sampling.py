"""Tripwires of a model that learns from completions: what groups teach, how long they are, what they repeat."""

from __future__ import annotations

from advantage.watch.tripwire import History, recent, written

SPREADLESS_UPDATES, SPREADLESS_SHARE = 5, 0.9  # updates in a row; share of groups whose rewards are all equal
CUT_UPDATES, CUT_SHARE = 3, 0.95  # updates in a row; share of completions that the limit of length cut
RUNAWAY_UPDATES, RUNAWAY_FACTOR = 10, 3.0  # updates in a row; of the mean length at the beginning
BEGINNING = 5  # updates that say how long completions were
REPETITION_UPDATES, REPETITION_SHARE = 5, 0.5  # updates in a row; triples that stood in their completion before
FAILING_UPDATES = 3  # updates in a row with completions that got no reward
REFERENCE_UPDATES, REFERENCE_KL = 5, 50.0  # updates in a row; nats a completion
FALLING_UPDATES, FALLING_NATS = 30, 10.0  # updates in a row; fall of the chosen completions' log-probability


def groups_without_spread(history: History) -> str | None:
    """Nearly every group has equal rewards: nothing is learnt from it."""
    shares = recent(history, "frac_reward_zero_std", SPREADLESS_UPDATES)
    if "train/beta" in (history[-1] if history else {}) or not shares or min(shares) < SPREADLESS_SHARE:
        return None  # with a critic a group may well be one completion
    return (
        f"{shares[-1]:.0%} of the groups have equal rewards, at least {SPREADLESS_SHARE:.0%} for {len(shares)} updates"
    )


def all_cut(history: History) -> str | None:
    """Nearly every completion ends at the limit of length."""
    shares = recent(history, "completions/clipped_ratio", CUT_UPDATES)
    if not shares or min(shares) < CUT_SHARE:
        return None
    return f"{shares[-1]:.0%} of the completions were cut at the limit of length, for {CUT_UPDATES} updates"


def length_runaway(history: History) -> str | None:
    """Completions several times as long as at the beginning, while the reward is no better."""
    lengths, rewards = written(history, "completions/mean_length"), written(history, "reward")
    last = recent(history, "completions/mean_length", RUNAWAY_UPDATES)
    if len(lengths) < RUNAWAY_UPDATES + BEGINNING or not last or len(rewards) < len(last):
        return None
    before = sum(lengths[:BEGINNING]) / BEGINNING
    better = sum(rewards[-len(last) :]) / len(last) > sum(rewards[:BEGINNING]) / len(rewards[:BEGINNING])
    if min(last) <= RUNAWAY_FACTOR * before or better:
        return None
    return (
        f"completions have {last[-1]:.0f} tokens, {last[-1] / before:.1f} times as many as at first, for no more reward"
    )


def repetition(history: History) -> str | None:
    """Completions that say the same again."""
    shares = recent(history, "completions/repetition", REPETITION_UPDATES)
    if not shares or min(shares) < REPETITION_SHARE:
        return None
    return (
        f"{shares[-1]:.0%} of the completions' triples of tokens repeat earlier ones, for {REPETITION_UPDATES} updates"
    )


def reward_failures(history: History) -> str | None:
    """Reward functions that raise or time out, update after update."""
    failed = recent(history, "rewards/failures", FAILING_UPDATES)
    if not failed or min(failed) == 0:
        return None
    return f"a reward function failed {failed[-1]:.0f} times in this update, and in each of the {FAILING_UPDATES} last"


def far_from_reference(history: History) -> str | None:
    """A policy that its reference would hardly ever sample."""
    kls = recent(history, "kl", REFERENCE_UPDATES)
    if not kls or min(kls) < REFERENCE_KL:
        return None
    return f"{kls[-1]:.0f} nats a completion from the reference, above {REFERENCE_KL:.0f} for {len(kls)} updates"


def chosen_falling(history: History) -> str | None:
    """The chosen completions lose probability too: the margin grows by sinking both."""
    logps = recent(history, "logps/chosen", FALLING_UPDATES)
    first = written(history, "logps/chosen")[:BEGINNING]
    if not logps or max(logps[-BEGINNING:]) > sum(first) / len(first) - FALLING_NATS:
        return None
    fallen = sum(first) / len(first) - logps[-1]
    return f"the chosen completions have lost {fallen:.0f} nats of log-probability since the run began"
