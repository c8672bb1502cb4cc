"""Small random causal models, the same ones every time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advantage.language.scalar import score_body, score_head


def small_llama(vocab: int = 61, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Any:
    """A random Llama of two layers; tied or untied, in float64 unless told."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**shape, **changes}))
        for parameter in model.parameters():  # the default is so flat that every token is as likely as any other
            parameter.data.mul_(6.0) if parameter.dim() > 1 else None
    return model.to(dtype).eval()


def with_precise_norms(model: Any) -> Any:
    """The same model with norms in its own precision: those of transformers round to float32, in float64 too."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape, child.variance_epsilon, dtype=child.weight.dtype)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model


def token_scores(model: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """The score of a reward model after every token, (rows, length); 0 past a text's end."""
    real = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
    states = score_body(model)(input_ids=tokens, attention_mask=real.long(), use_cache=False).last_hidden_state
    return torch.where(real, score_head(model)(states).squeeze(-1), 0.0)
