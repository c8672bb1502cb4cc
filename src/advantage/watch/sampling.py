"""Tripwires of a model that learns from its own completions: what they teach, how long they are, what rewards they."""

from __future__ import annotations

from advantage.watch.tripwire import History, apart, recent, written

SPREADLESS_UPDATES, SPREADLESS_SHARE = 5, 0.9  # updates in a row; share of groups whose rewards are all equal
CUT_UPDATES, CUT_SHARE = 3, 0.95  # updates in a row; share of completions that the limit of length cut
RUNAWAY_UPDATES, RUNAWAY_FACTOR = 10, 3.0  # updates in a row; of the mean length at the beginning
BEGINNING = 5  # updates that say how long completions were
REPETITION_UPDATES, REPETITION_SHARE = 5, 0.5  # updates in a row; triples that stood in their completion before
FAILING_UPDATES = 3  # updates in a row with completions that got no reward
REFERENCE_UPDATES, REFERENCE_KL = 5, 50.0  # updates in a row; nats a completion
MASKED_UPDATES, MASKED_SHARE = 3, 0.05  # updates in a row; share of the sampled tokens that is trained on
DOMINANT_UPDATES = 10  # updates in a row
DOMINANT_SHARE, DROWNED_SHARE = 0.95, 0.2  # of the total reward's variance: one function's, and another's beside it
GOLD_BLOCK, GOLD_ERRORS = 10, 4.0  # updates of a mean; standard errors that tell two means apart


def groups_without_spread(history: History) -> str | None:
    """Nearly every group has equal rewards: nothing is learnt from it."""
    shares = recent(history, "frac_reward_zero_std", SPREADLESS_UPDATES)
    if "train/beta" in (history[-1] if history else {}) or not shares or min(shares) < SPREADLESS_SHARE:
        return None  # with a critic a group may well be one completion
    return (
        f"{shares[-1]:.0%} of the groups have equal rewards, at least {SPREADLESS_SHARE:.0%} for {len(shares)} updates"
    )


def everything_masked(history: History) -> str | None:
    """Hardly a token of what was sampled is trained on: the filters, or rewards that do not apply, leave nothing."""
    trained = recent(history, "num_tokens", MASKED_UPDATES + 1)
    sampled = recent(history, "completions/tokens", MASKED_UPDATES)
    if not trained or not sampled or min(sampled) == 0:
        return None
    shares = [(trained[i + 1] - trained[i]) / tokens for i, tokens in enumerate(sampled)]
    if max(shares) >= MASKED_SHARE:
        return None
    below = f"below {MASKED_SHARE:.0%} for {MASKED_UPDATES} updates"
    return f"{shares[-1]:.1%} of the sampled tokens were trained on, {below}"


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


def dominant_component(history: History) -> str | None:
    """Of several reward functions one makes all of the total's differences, and another that varies makes none."""
    keys = [key for key in (history[-1] if history else {}) if key.startswith("rewards/") and key.endswith("/share")]
    shares = {
        key.removeprefix("rewards/").removesuffix("/share"): recent(history, key, DOMINANT_UPDATES) for key in keys
    }
    largest = next((name for name, known in shares.items() if known and min(known) >= DOMINANT_SHARE), None)
    drowned = next((name for name, known in shares.items() if known and max(known) <= DROWNED_SHARE), None)
    if largest is None or drowned is None:
        return None
    told = ", ".join(f"{name} explains {shares[name][-1]:.0%}" for name in (largest, drowned))
    return f"of the total reward's variance {told}, for {DOMINANT_UPDATES} updates"


def gold_falling(history: History) -> str | None:
    """The reward has gone up since the reward that is only watched was at its best, and that one has gone down."""
    rows = [(row["reward"], row["gold"]) for row in history if "reward" in row and "gold" in row]
    if len(rows) < 2 * GOLD_BLOCK or "gold" not in history[-1]:
        return None
    rewards, golds = ([row[i] for row in rows] for i in (0, 1))
    ends = range(GOLD_BLOCK, len(rows) - GOLD_BLOCK + 1)
    best = max(ends, key=lambda end: sum(golds[end - GOLD_BLOCK : end]))
    then, now = slice(best - GOLD_BLOCK, best), slice(len(rows) - GOLD_BLOCK, len(rows))
    if apart(rewards[then], rewards[now]) < GOLD_ERRORS or apart(golds[now], golds[then]) < GOLD_ERRORS:
        return None
    means = [sum(values) / GOLD_BLOCK for values in (golds[then], golds[now], rewards[then], rewards[now])]
    return "gold fell from {:.3g} to {:.3g} while the reward rose from {:.3g} to {:.3g}".format(*means)
