"""Log-probabilities of chosen tokens from hidden states, a chunk of positions at a time, forward and backward.

The logits of a batch (rows × tokens × vocabulary) are never held: a chunk's are made, reduced to two numbers a position
and dropped; backward makes them again. Only the positions asked for meet the head at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from advantage.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 512  # positions whose logits are held at once


class Head(NamedTuple):
    """A causal model in two: what makes hidden states, and what turns them into logits.

    logits = cap · tanh((h Wᵀ + b) · scale / cap)
    """

    backbone: nn.Module
    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None


def head_of(model: PreTrainedModel) -> Head:
    """The backbone and the head of a causal model of transformers, or of peft around one.

    Raises:
        UserError: the head is no linear layer.
    """
    wrapped: Any = model
    inner = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
    head = inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"the head of {type(inner).__name__} is a {type(head).__name__}; only a linear one can be scored"
        )
    config = inner.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    backbone: nn.Module = inner.get_decoder()
    return Head(backbone, head.weight, head.bias, scale, getattr(config, "final_logit_softcapping", None))


def hidden_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The last hidden states (rows, L, d) of token rows (rows, L).

    Rows that are padded on the right need no mask: nothing looks ahead. With a mask (True on real tokens), positions
    count from each row's first real token.
    """
    extra: dict[str, Any] = {}
    if attention_mask is not None:
        places = attention_mask.long().cumsum(-1) - 1
        extra = {"attention_mask": attention_mask.long(), "position_ids": places.clamp(min=0)}
    states: Tensor = backbone(input_ids=input_ids, use_cache=False, **extra).last_hidden_state
    return states


def token_logprobs(
    model: PreTrainedModel,
    input_ids: Tensor,
    positions: Tensor,
    temperature: float = 1.0,
    *,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of the tokens that stand at `positions`, each given all that stands before it.

        log softmax(logits_{p−1} / temperature)[token_p]

    Args:
        model: a causal model of transformers.
        input_ids: (rows, L) token ids.
        positions: (rows, T) places in [1, L).
        temperature: > 0, that of the sampling.
        attention_mask: (rows, L), True on real tokens; None where padding, if any, stands on the right.

    Returns:
        (rows, T), in nats, differentiable.

    Raises:
        ValueError: shapes differ, a position has nothing before it, or the temperature is not above 0.
    """
    return token_logprobs_and_entropy(model, input_ids, positions, temperature, attention_mask=attention_mask)[0]


def token_logprobs_and_entropy(
    model: PreTrainedModel,
    input_ids: Tensor,
    positions: Tensor,
    temperature: float = 1.0,
    *,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, with the entropy −Σ p log p of the distribution at each of those places, in nats."""
    if positions.dim() != 2 or len(positions) != len(input_ids):
        raise ValueError(f"positions has shape {tuple(positions.shape)}; it must be ({len(input_ids)}, T)")
    if positions.numel() and not 1 <= int(positions.min()) <= int(positions.max()) < input_ids.shape[1]:
        raise ValueError(f"positions must lie in [1, {input_ids.shape[1]}); a first token has nothing before it")
    head = head_of(model)
    states = hidden_states(head.backbone, input_ids, attention_mask)
    rows = torch.arange(len(input_ids), device=positions.device)[:, None].expand_as(positions)
    logp, entropy = chosen_logprobs(
        states[rows, positions - 1].flatten(0, 1), input_ids[rows, positions].flatten(), head, temperature
    )
    return logp.view(positions.shape), entropy.view(positions.shape)


def chosen_logprobs(hidden: Tensor, tokens: Tensor, head: Head, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens (N,) and entropies, from the hidden states (N, d) that predict them."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need one above 0")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    scale, cap = head.scale / temperature, None if head.cap is None else head.cap / temperature
    parts = hidden, tokens, head.weight, head.bias, scale, cap
    found: tuple[Tensor, Tensor] = _Chosen.apply(*parts)  # type: ignore[no-untyped-call]
    return found


class _Chosen(torch.autograd.Function):
    """Both numbers of each position, with ∂ log p/∂z = 1[token] − p and ∂H/∂z = −p (log p + H) over the logits z."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        tokens: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.scale, ctx.cap = scale, cap
        ctx.set_materialize_grads(False)
        precise = _precise(hidden.dtype)
        logp, entropy, total = (hidden.new_empty(len(hidden), dtype=precise) for _ in range(3))
        for part in _parts(len(hidden)):
            logits = _logits(hidden[part], weight, bias, scale, cap)
            total[part] = logits.logsumexp(-1)
            logp[part] = logits.gather(-1, tokens[part, None]).squeeze(-1) - total[part]
            shares = (logits - total[part, None]).exp_()
            entropy[part] = total[part] - (shares * logits).sum(-1)
        ctx.save_for_backward(hidden, tokens, weight, bias, total, entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, for_logp: Tensor | None, for_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, tokens, weight, bias, total, entropy = ctx.saved_tensors
        wants_weight, wants_bias = ctx.needs_input_grad[2], bias is not None and ctx.needs_input_grad[3]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        for part in _parts(len(hidden)):
            logits = _logits(hidden[part], weight, bias, ctx.scale, ctx.cap)
            logp = logits - total[part, None]
            shares = logp.exp()
            slope = torch.zeros_like(logits)
            if for_logp is not None:
                slope.addcmul_(shares, for_logp[part, None], value=-1.0)
                slope.scatter_add_(-1, tokens[part, None], for_logp[part, None])
            if for_entropy is not None:
                slope.addcmul_(shares, (logp + entropy[part, None]) * for_entropy[part, None], value=-1.0)
            if ctx.cap is not None:
                slope.mul_(1.0 - (logits / ctx.cap).square())
            slope = slope.mul_(ctx.scale).to(hidden.dtype)
            grad_hidden[part] = slope @ weight.to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += (slope.mT @ hidden[part]).to(weight.dtype)
            if grad_bias is not None:
                grad_bias += slope.sum(0).to(grad_bias.dtype)
        return grad_hidden, None, grad_weight, grad_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cap: float | None) -> Tensor:
    """A chunk's logits over the temperature, in float32 at least."""
    logits = linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype))
    logits = logits.to(_precise(hidden.dtype)) * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _parts(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
