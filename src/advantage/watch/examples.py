"""Tripwires of the texts themselves: pairs that do not differ, answers that never end, a template that changed."""

from __future__ import annotations

from advantage.watch.tripwire import History, recent, written

IDENTICAL_UPDATES, IDENTICAL_SHARE = 3, 0.1  # updates in a row; share of pairs
ENDLESS_UPDATES = 3  # updates in a row without an answer that ends
BEGINNING = 5  # updates that say where the log-probability began
FALLING_UPDATES, FALLING_NATS = 30, 10.0  # updates in a row; fall of the chosen completions' log-probability


def identical_pairs(history: History) -> str | None:
    """Pairs whose chosen and rejected texts are the same."""
    shares = recent(history, "rewards/identical", IDENTICAL_UPDATES)
    if not shares or min(shares) < IDENTICAL_SHARE:
        return None
    return f"in {shares[-1]:.0%} of the pairs chosen and rejected are the same text, for {len(shares)} updates"


def chosen_falling(history: History) -> str | None:
    """The chosen completions lose probability too: the margin grows by sinking both."""
    logps = recent(history, "logps/chosen", FALLING_UPDATES)
    first = written(history, "logps/chosen")[:BEGINNING]
    if not logps or max(logps[-BEGINNING:]) > sum(first) / len(first) - FALLING_NATS:
        return None
    fallen = sum(first) / len(first) - logps[-1]
    return f"the chosen completions have lost {fallen:.0f} nats of log-probability since the run began"


def endless_answers(history: History) -> str | None:
    """Not one answer that is learnt from ends in a token that ends a turn."""
    shares = recent(history, "examples/ended", ENDLESS_UPDATES)
    if not shares or max(shares) > 0:
        return None
    return f"no answer of the last {ENDLESS_UPDATES} updates ends in a token that ends a turn"


def template_drift(history: History) -> str | None:
    """Prompts are rendered otherwise than before."""
    prints = written(history, "examples/template")
    if not prints or "examples/template" not in history[-1] or prints[-1] == prints[0]:
        return None
    return f"the fingerprint of a rendered prompt is {prints[-1]:.0f}; it was {prints[0]:.0f} when the run began"
