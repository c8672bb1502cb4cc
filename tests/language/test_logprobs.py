"""Log-probabilities by chunks are those of the whole logits, in value and gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from advantage.language import logprobs
from advantage.language.logprobs import token_logprobs, token_logprobs_and_entropy
from tests.language.small import small_llama


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logprobs, "CHUNK", 7)  # several chunks, the last one smaller
    return


def rows(count: int = 4, length: int = 12, vocab: int = 61) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, vocab, (count, length), generator=generator)
    positions = torch.stack([torch.randperm(length - 1, generator=generator)[:6] + 1 for _ in range(count)])
    return ids, positions


def naive(model: Any, ids: Tensor, positions: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logp = (model(input_ids=ids).logits / temperature).log_softmax(-1)
    at = logp.gather(1, (positions - 1)[..., None].expand(-1, -1, logp.shape[-1]))
    return at.gather(-1, ids.gather(1, positions)[..., None]).squeeze(-1), -(at.exp() * at).sum(-1)


def gemma(**changes: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 2.0}
    config = Gemma2Config(**shape, **heads, attn_implementation="eager", **changes)
    return Gemma2ForCausalLM(config).double().eval()


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = GraniteConfig(**shape, num_attention_heads=4, num_key_value_heads=2, logits_scaling=3.0)
    return GraniteForCausalLM(config).double().eval()


def with_bias() -> Any:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 61, dtype=torch.float64))
    return model


MODELS = {
    "tied": small_llama,
    "untied": lambda: small_llama(tie_word_embeddings=False),
    "bias": with_bias,
    "softcap": gemma,
    "scale": granite,
}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_whole_logits(name: str, temperature: float) -> None:
    ids, positions = rows()
    model = MODELS[name]()
    weights = torch.linspace(-1, 2, positions.numel(), dtype=torch.float64).view(positions.shape)
    found = []
    for score in (naive, token_logprobs_and_entropy):
        model.zero_grad()
        logp, entropy = score(model, ids, positions, temperature)
        ((weights * logp).sum() + (weights.flip(0) * entropy).sum()).backward()
        found.append((logp, entropy, {name: p.grad for name, p in model.named_parameters()}))
    (logp, entropy, grads), (ours, our_entropy, our_grads) = found
    torch.testing.assert_close(ours, logp, rtol=0, atol=1e-10)
    torch.testing.assert_close(our_entropy, entropy, rtol=0, atol=1e-10)
    for key, grad in grads.items():
        torch.testing.assert_close(our_grads[key], grad, rtol=1e-10, atol=1e-10)


def test_without_the_entropy_the_gradient_is_that_of_the_log_probability_alone() -> None:
    ids, positions = rows()
    model = small_llama()
    gradients = [
        torch.autograd.grad(logp.sum(), list(model.parameters()))
        for logp in (naive(model, ids, positions, 1.0)[0], token_logprobs(model, ids, positions))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 5e-5)])
def test_the_side_of_the_padding_does_not_matter(dtype: torch.dtype, bound: float) -> None:
    model = small_llama(dtype=dtype)
    ids, _ = rows(2, 9)
    alone = token_logprobs(model, ids, torch.arange(1, 9).expand(2, -1))
    pad = torch.full((2, 4), 2)
    right = token_logprobs(model, torch.cat([ids, pad], 1), torch.arange(1, 9).expand(2, -1))
    left_mask = torch.cat([torch.zeros(2, 4), torch.ones(2, 9)], 1).bool()
    left = token_logprobs(model, torch.cat([pad, ids], 1), torch.arange(5, 13).expand(2, -1), attention_mask=left_mask)
    torch.testing.assert_close(right, alone, rtol=0, atol=bound)
    torch.testing.assert_close(left, alone, rtol=0, atol=bound)


def test_no_tensor_of_all_logits_is_made() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            nonlocal largest
            if isinstance(out, Tensor) and out.shape and out.shape[-1] == 997 and out.shape != (32, 997):  # weights
                largest = max(largest, out.shape[:-1].numel())
            return out

    model = small_llama(vocab=997, tie_word_embeddings=True)
    ids, positions = rows(vocab=997)
    with Watch():
        token_logprobs(model, ids, positions).sum().backward()
    assert 0 < largest <= 7


@pytest.mark.parametrize(
    ("positions", "temperature", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.long), 1.0, r"positions must lie in \[1, 12\)"),
        (torch.full((4, 2), 12), 1.0, r"positions must lie in \[1, 12\)"),
        (torch.ones(3, 2, dtype=torch.long), 1.0, r"positions has shape \(3, 2\); it must be \(4, T\)"),
        (torch.ones(4, 2, dtype=torch.long), 0.0, "temperature is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(positions: Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_logprobs(small_llama(), rows()[0], positions, temperature)
