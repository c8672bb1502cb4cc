"""Losses of pairs of which one member was preferred, elementwise and to be minimised."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from advantage.core import checks


def bradley_terry_loss(
    chosen: Float[Tensor, "*batch"],
    rejected: Float[Tensor, "*batch"],
    margin: float | Float[Tensor, "*batch"] = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Loss of a reward model: the chosen completion should score higher.

        −(1 − α) log σ(r_c − r_r − m) − α log σ(−(r_c − r_r − m))

    Args:
        chosen, rejected: scores r_c and r_r, one a completion.
        margin: m, in units of score; a number or one a pair.
        label_smoothing: α in [0, 1], the share of labels believed to be wrong.

    Raises:
        ValueError: the shapes differ, or α outside [0, 1].

    Source: Bradley & Terry 1952; Ouyang et al. 2022, equation 1; Touvron et al. 2023, equation 2 (margin).

    >>> bradley_terry_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    checks.real(chosen=chosen, rejected=rejected)
    if isinstance(margin, Tensor):
        checks.real(chosen=chosen, margin=margin)
    return _smoothed(chosen - rejected - margin, label_smoothing)


def implicit_reward(
    logp: Float[Tensor, "*batch"], logp_ref: Float[Tensor, "*batch"], beta: float
) -> Float[Tensor, "*batch"]:
    """Reward for which a policy would be the optimum of KL-regularised RL, up to a function of the prompt.

        β (log π(y|x) − log π_ref(y|x))

    Args:
        logp, logp_ref: log-probabilities summed over the completion's tokens, in nats.
        beta: β ≥ 0, reward per nat.

    Raises:
        ValueError: the shapes differ, or β < 0.

    Source: Rafailov et al. 2023, equation 5.

    >>> implicit_reward(torch.tensor([-1.0]), torch.tensor([-3.0]), beta=0.5)
    tensor([1.])
    """
    checks.real(logp=logp, logp_ref=logp_ref)
    checks.non_negative(beta=beta)
    return beta * (logp - logp_ref)


def dpo_loss(
    logp_chosen: Float[Tensor, "*batch"],
    logp_rejected: Float[Tensor, "*batch"],
    ref_chosen: Float[Tensor, "*batch"],
    ref_rejected: Float[Tensor, "*batch"],
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Direct preference optimisation: the Bradley–Terry loss of the implicit rewards.

        −log σ(β [(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))])

    Args:
        logp_chosen, logp_rejected: log-probabilities *summed* over each completion's tokens, in nats.
        ref_chosen, ref_rejected: the same under the reference model.
        beta: β ≥ 0, reward per nat.
        label_smoothing: α in [0, 1] (conservative DPO); 0 for the paper's form.

    Raises:
        ValueError: the shapes differ, β < 0, or α outside [0, 1].

    Source: Rafailov et al. 2023, equation 7; Mitchell 2023 for the conservative form.

    >>> dpo_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=0.1)
    tensor([0.6931])
    """
    checks.real(logp_chosen=logp_chosen, logp_rejected=logp_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    chosen = implicit_reward(logp_chosen, ref_chosen, beta)
    rejected = implicit_reward(logp_rejected, ref_rejected, beta)
    return bradley_terry_loss(chosen, rejected, label_smoothing=label_smoothing)


def ipo_loss(
    logp_chosen: Float[Tensor, "*batch"],
    logp_rejected: Float[Tensor, "*batch"],
    ref_chosen: Float[Tensor, "*batch"],
    ref_rejected: Float[Tensor, "*batch"],
    beta: float,
) -> Float[Tensor, "*batch"]:
    """Identity preference optimisation: the log-ratios shall differ by a fixed amount, not by ever more.

        (u − 1/(2β))²,   u = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))

    Args:
        logp_chosen, logp_rejected, ref_chosen, ref_rejected: as for `dpo_loss`.
        beta: β > 0.

    Raises:
        ValueError: the shapes differ, or β is not above 0.

    Source: Azar et al. 2023, equation 17.

    >>> ipo_loss(torch.tensor([5.0]), torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=0.1)
    tensor([0.])
    """
    checks.positive(beta=beta)
    checks.real(logp_chosen=logp_chosen, logp_rejected=logp_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    return ((logp_chosen - ref_chosen) - (logp_rejected - ref_rejected) - 1.0 / (2.0 * beta)).square()


def _smoothed(difference: Tensor, label_smoothing: float) -> Tensor:
    checks.unit_interval(label_smoothing=label_smoothing)
    loss = -logsigmoid(difference)
    if label_smoothing == 0.0:
        return loss
    return (1.0 - label_smoothing) * loss - label_smoothing * logsigmoid(-difference)
