"""A model that gives a text one number, in folders of `AutoModelForSequenceClassification` with one label.

    r(x) = w · h_T(x),  h_T the last hidden state of the last real token

The last real token is found by lengths. Transformers' own forward takes the last one that is not the padding token,
and misses the end of a text where padding and end token are one.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from advantage.errors import UserError
from advantage.language import adapters
from advantage.language.models import load_model, load_weights, read_config, resolve_name, save_model
from advantage.language.weights import inner_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_scalar(name: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A reward model: a folder or a name on the hub with a head of one label, in float32.

    Adapters, with the head that was trained beside them, are taken into the weights of their model.

    Raises:
        UserError: what `load_model` raises; a language model without such a head; a classifier of several labels.
    """
    from transformers import AutoModelForSequenceClassification

    source = resolve_name(name)
    if (base := adapters.base_of(source, adapters.SCORE)) is not None:
        on = scalar_from_causal(load_model(base, trust_remote_code=trust_remote_code))
        return adapters.merged(on, Path(source))  # type: ignore[no-any-return]
    config = read_config(source, trust_remote_code)
    if not any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
        kind = (config.architectures or [config.model_type])[0]
        raise UserError(f"{source} is no reward model but a {kind}; train one with `advantage train reward_model`")
    if config.num_labels != 1:
        raise UserError(f"{source} gives {config.num_labels} numbers to a text; a reward model gives 1 (num_labels)")
    return load_weights(AutoModelForSequenceClassification, source, trust_remote_code)


def save_scalar(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a folder that `load_scalar` and anyone's AutoModelForSequenceClassification load.

    The config gets the tokenizer's padding token: transformers' own forward refuses a batch without one.
    """
    model.config.pad_token_id = tokenizer.pad_token_id
    save_model(model, tokenizer, folder)


def scalar_from_causal(model: PreTrainedModel, std: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """A reward model on the body of a language model, which is shared and not copied; the language head is left out.

    Args:
        model: a causal language model.
        std: of the fresh head's normal weights, ≥ 0. At 0 every text scores 0, and the first step moves the head alone.
        seed: of the fresh head.

    Raises:
        UserError: transformers has no such model of this kind.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.architectures = None
    try:
        with torch.device("meta"):
            scalar = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(f"transformers has no model of kind {config.model_type} that scores a text") from error
    prefix = scalar.base_model_prefix
    heads = [(name, child) for name, child in scalar.named_children() if name != prefix]
    if len(heads) != 1 or not isinstance(heads[0][1], nn.Linear) or not hasattr(model, prefix):
        raise UserError(
            f"{type(scalar).__name__} is not a body and one linear head; its kind cannot be a reward model here"
        )
    body = getattr(model, prefix)
    setattr(scalar, prefix, body)
    setattr(scalar, heads[0][0], _fresh_head(heads[0][1], next(body.parameters()), std, seed))
    return scalar.train(model.training)  # type: ignore[no-any-return]


def last_scores(
    model: PreTrainedModel, tokens: Int[Tensor, "rows length"], lengths: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """The score of each text, read at its last real token.

    Args:
        model: a reward model.
        tokens: (rows, length) ids, padded on the right with any id.
        lengths: (rows,) real tokens, in [1, length].

    Returns:
        (rows,) scores; padding changes none.

    Raises:
        ValueError: a length out of range.
    """
    if bool(((lengths < 1) | (lengths > tokens.shape[1])).any()):
        raise ValueError(f"lengths must lie in [1, {tokens.shape[1]}], not {lengths.tolist()}")
    last = (lengths - 1).view(-1, 1, 1)
    hidden = _hidden(model, tokens, lengths)
    at_end = hidden.gather(1, last.expand(-1, 1, hidden.shape[2])).squeeze(1)
    return score_head(model)(at_end).squeeze(-1)  # type: ignore[no-any-return]


def score_head(model: PreTrainedModel) -> nn.Module:
    """The linear map from a hidden state to the score."""
    inner = inner_model(model)
    return getattr(inner, head_name(inner))  # type: ignore[no-any-return]


def head_name(model: PreTrainedModel) -> str:
    """What that map is called in a model."""
    (name,) = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    return name


def score_body(model: PreTrainedModel) -> nn.Module:
    """What makes the hidden states."""
    inner = inner_model(model)
    return getattr(inner, inner.base_model_prefix)  # type: ignore[no-any-return]


def _fresh_head(shape: nn.Linear, like: Tensor, std: float, seed: int) -> nn.Linear:
    head = nn.Linear(shape.in_features, 1, bias=shape.bias is not None, device=like.device, dtype=like.dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(std * torch.randn(head.weight.shape, generator=generator))
        if head.bias is not None:
            head.bias.zero_()
    return head


def _hidden(model: PreTrainedModel, tokens: Tensor, lengths: Tensor) -> Any:
    mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)).long()
    return score_body(model)(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
