"""How far an update moves the policy."""

from __future__ import annotations

import copy
from typing import Any

import torch

from advantage.trajectory import Batch, Rollout


class Drift:
    """The policy beside itself as it was before the update.

    Attributes:
        old: the policy before the update; a resumed run needs it.
    """

    def __init__(self, policy: Any) -> None:
        self.policy, self.old = policy, copy.deepcopy(policy).requires_grad_(False)

    @torch.no_grad()
    def measure(self, rollout: Rollout | Batch) -> dict[str, float]:
        """The exact KL(old‖new), mean over the steps of the update's rollout, in nats; the new is the old from here."""
        assert isinstance(rollout, Rollout)
        data = Batch.of(rollout)
        new, old = self.policy.evaluate(data), self.old.evaluate(data)
        self.old.load_state_dict(self.policy.state_dict())
        return {"train/kl": float(old.distribution.kl(new.distribution).view(rollout.mask.shape)[rollout.mask].mean())}
