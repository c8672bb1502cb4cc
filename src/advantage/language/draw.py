"""A token out of logits: temperature, top-k, top-p, and the inverse of the cumulative distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 256  # tokens of the vocabulary whose probabilities are summed first
_NUCLEUS = 256  # most probable tokens that are looked at first for top-p
_BELOW_ONE = 1.0 - 2.0**-53


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """A token from each row, by the inverse of its cumulative distribution, in the vocabulary's order.

        token = min {v : Σ_{w ≤ v} p_w > u},   p = softmax(logits / temperature) over the kept tokens

    Kept are first the `top_k` most probable tokens, of these then the fewest that hold `top_p` of the probability;
    tokens as probable as the last one kept are kept too, so that no order among equals enters.

    Args:
        logits: (rows, vocabulary), float32 or float64; −∞ for tokens that cannot be.
        uniform: (rows,) in [0, 1), float64.
        temperature: ≥ 0; 0 takes the most probable token, whose probability is then 1.
        top_p: in (0, 1].
        top_k: ≥ 0; 0 for all.

    Returns:
        Tokens (rows,) and their log-probabilities (rows,) in that distribution, in nats.
    """
    if temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros_like(token, dtype=logits.dtype)
    logits = kept(logits / temperature if temperature != 1 else logits, top_p, top_k)
    top = logits.amax(-1, keepdim=True)
    weight = (logits - top).exp_()
    weight = pad(weight, (0, -weight.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    blocks = weight.sum(-1)
    block, within = _invert(blocks, uniform[:, None])
    inside = weight[torch.arange(len(weight), device=weight.device), block.squeeze(-1)]
    token = block * _BLOCK + _invert(inside, within)[0]
    logp = logits.gather(-1, token) - top - blocks.sum(-1, keepdim=True).log()
    return token.squeeze(-1), logp.squeeze(-1)


def _invert(weight: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the weights (rows, N) the share `uniform` (rows, 1) of their sum falls into, and how far into it.

    Summed in float64; a weight of 0 is never the answer.
    """
    upto = weight.double().cumsum(-1)
    target = uniform * upto[:, -1:]
    index = torch.searchsorted(upto, target, right=True).clamp_(max=weight.shape[-1] - 1)
    size = weight.gather(-1, index).double()
    far = (target - (upto.gather(-1, index) - size)) / size
    return index, far.clamp_(0.0, _BELOW_ONE)


def kept(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """The logits with −∞ for every token that top-k or, of what it keeps, top-p leaves out."""
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p == 1:
        return logits
    total = logits.logsumexp(-1, keepdim=True)
    count = _NUCLEUS
    while True:
        best = logits.topk(min(count, logits.shape[-1])).values
        share = (best - total).double().exp()
        before = share.cumsum(-1) - share
        if count >= logits.shape[-1] or bool((before[:, -1] >= top_p).all()):
            break
        count *= 8
    least = best.masked_fill(before >= top_p, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < least, -torch.inf)
