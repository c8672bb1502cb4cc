"""Our decoding is the model's forward pass: every family, with everything that its layers may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from advantage.errors import UserError
from advantage.language import decode, weights
from advantage.language.decode import Decoder
from advantage.language.sampler import GenerateSampler, TorchSampler, sampler_for
from advantage.language.weights import Weights, unsupported
from tests.language.small import small_llama

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama, biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "llama, llama3": ("Llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 1}),
    "llama, one head each": ("Llama", {"num_key_value_heads": 4}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None}),
}
RAGGED = [[5, 6, 7], [8], list(range(9, 30)), [14, 15, 16], [40, 41], [8, 9, 10, 11, 12, 13]]


def small(name: str = "Llama", seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Random, its biases and norms too, and eager to say different things."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = getattr(transformers, f"{name}Config")(**{**SHAPE, **changes})
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def generated(model: Any, prompt: Sequence[int], most: int, ends: Sequence[int] = ()) -> list[int]:
    """What transformers' own greedy search says, up to and with the first end."""
    ids = torch.tensor([list(prompt)])
    model.generation_config.eos_token_id = list(ends) or None
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most, pad_token_id=2)
    return list(out[0, len(prompt) :].tolist())


def scored(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """The logits that the completion's tokens were drawn from, by one forward pass."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([[*prompt, *completion]])).logits
    return logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_is_generate(family: str, seed: int) -> None:
    name, changes = FAMILIES[family]
    model = small(name, seed, **changes)
    sampler = sampler_for(model)
    assert isinstance(sampler, TorchSampler)
    ends = [1, 17, 33]
    found = sampler.sample(RAGGED, 2, max_tokens=24, temperature=0, stop_ids=ends)
    for place, prompt in enumerate(RAGGED):
        expected = generated(model, prompt, 24, ends)
        for completion in found[2 * place : 2 * place + 2]:
            assert list(completion.ids) == expected
            assert completion.logps == (0.0,) * len(expected)
            assert completion.finish_reason == ("stop" if expected[-1] in ends else "length")


@pytest.mark.parametrize("family", FAMILIES)
def test_logps_are_the_forward_pass(family: str) -> None:
    name, changes = FAMILIES[family]
    for dtype, near in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = small(name, dtype=dtype, **changes)
        found = TorchSampler(model).sample(RAGGED, 3, max_tokens=16, temperature=0.8, stop_ids=[20, 21, 22])
        assert len({len(completion.ids) for completion in found}) > 3
        for row, completion in enumerate(found):
            prompt = RAGGED[row // 3]
            logp = (scored(model, prompt, completion.ids) / 0.8).log_softmax(-1)
            expected = logp.gather(-1, torch.tensor(completion.ids)[:, None]).squeeze(-1).double()
            torch.testing.assert_close(
                torch.tensor(completion.logps, dtype=torch.float64), expected, atol=near, rtol=near
            )


def test_rows_and_groups_that_leave_take_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits row by row against the forward pass, while rows leave in an order of our choice."""
    monkeypatch.setattr(decode, "_ROOM", 3)  # room for completions grows on the way
    monkeypatch.setattr(decode, "PREFILL", 8)  # and prompts are read in parts
    model = small()
    prompts = sorted(RAGGED, key=len)
    decoder = Decoder(Weights(model), 2, 12)
    rows = [list(prompt) for prompt in prompts for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        logits = decoder.prefill(prompts).repeat_interleave(2, 0)
        for leaving in ([], [0, 5], [4, 3], [], [7], [2, 0, 1], [0], [], [1]):
            for row, its in zip(rows, logits, strict=True):
                expected = model(input_ids=torch.tensor([row])).logits[0, -1]
                torch.testing.assert_close(its, expected, atol=1e-10, rtol=1e-10)
            order = decode.filling([row for row in range(len(rows)) if row not in leaving])
            rows = [list(rows[row]) for row in order]
            if leaving:
                decoder.keep(order)
            tokens = torch.randint(3, 61, (len(rows),), generator=generator)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                row.append(token)
            logits = decoder.advance(tokens)
    assert len(rows) == 2


def test_a_product_a_group() -> None:
    """A prompt is computed once, whatever n."""
    model = small()
    read = []
    laid = Weights(model)
    hidden = laid.hidden
    laid.hidden = lambda ids, *rest: read.append(len(ids)) or hidden(ids, *rest)  # type: ignore[method-assign, func-returns-value]
    decoder = Decoder(laid, 8, 4)
    with torch.inference_mode():
        decoder.prefill([[3], [4, 5], [6, 7, 8]])
        decoder.advance(torch.full((24,), 9))
    assert read == [6, 24]


def test_weights_are_read_at_every_call() -> None:
    model = small()
    sampler = TorchSampler(model)
    first = sampler.sample(RAGGED, 1, max_tokens=12, temperature=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    second = sampler.sample(RAGGED, 1, max_tokens=12, temperature=0)
    assert [completion.ids for completion in first] != [completion.ids for completion in second]
    assert [list(completion.ids) for completion in second] == [generated(model, prompt, 12) for prompt in RAGGED]


def test_bfloat16_of_float32_weights() -> None:
    model = small(dtype=torch.float32)
    prompts = [[5, 6, 7], [8]]
    ours = TorchSampler(model, dtype=torch.bfloat16).sample(prompts, 2, max_tokens=8)
    with torch.autocast("cpu", torch.bfloat16):
        auto = TorchSampler(model).sample(prompts, 2, max_tokens=8)
    assert ours == auto
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    half = small(dtype=torch.float32)
    for parameter in half.parameters():  # `to` would round the rotary frequencies too
        parameter.data = parameter.data.bfloat16()
    assert TorchSampler(half).sample(prompts, 2, max_tokens=8) == ours
    logp = scored(half, prompts[0], ours[0].ids).float().log_softmax(-1)
    expected = logp.gather(-1, torch.tensor(ours[0].ids)[:, None]).squeeze(-1)
    assert float((torch.tensor(ours[0].logps) - expected).abs().max()) < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_laid_out_by_onednn_or_not(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(dtype=torch.float32, attention_bias=True, mlp_bias=True)
    laid = TorchSampler(model, dtype=dtype).sample(RAGGED, 2, max_tokens=1)
    monkeypatch.setattr(weights, "_packs", lambda dtype: False)
    plain = TorchSampler(model, dtype=dtype).sample(RAGGED, 2, max_tokens=1)
    for a, b in zip(laid, plain, strict=True):
        assert a.ids == b.ids
        assert a.logps == pytest.approx(b.logps, abs=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: small("Mistral", sliding_window=8), "sliding window of 8"),
        (lambda: small("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1), "window of 8"),
        (lambda: small(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
        (lambda: small("Gemma2", head_dim=8, attn_implementation="eager", sliding_window=8), "Gemma2ForCausalLM"),
        (lambda: small("GPT2", n_embd=32, n_layer=2, n_head=4), "GPT2LMHeadModel"),
    ],
)
def test_other_models_fall_back(model: Any, why: str) -> None:
    model = model() if why != "GPT2LMHeadModel" else gpt2()
    assert why in (unsupported(model) or "")
    sampler = sampler_for(model)
    assert isinstance(sampler, GenerateSampler)
    assert len(sampler.notes) == 1 and why in sampler.notes[0]
    with pytest.raises(UserError, match=why):
        TorchSampler(model)
    found = sampler.sample(RAGGED, 1, max_tokens=16, temperature=0, stop_ids=[1, 17])
    assert [list(completion.ids) for completion in found] == [
        generated(model, prompt, 16, [1, 17]) for prompt in RAGGED
    ]


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=4)).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def test_a_recurrent_model_recomputes() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    found = sampler_for(model).sample([[5, 6], [7]], 2, max_tokens=6, temperature=1.0, stop_ids=[20])
    for row, completion in enumerate(found):
        logp = scored(model, [[5, 6], [7]][row // 2], completion.ids).log_softmax(-1)
        expected = logp.gather(-1, torch.tensor(completion.ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for the old name
def test_lora_is_added() -> None:
    peft = pytest.importorskip("peft")
    base = small()
    plain = TorchSampler(base).sample(RAGGED, 1, max_tokens=10)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.5)
    model = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model.train()
    sampler = sampler_for(model)
    assert isinstance(sampler, TorchSampler)
    found = sampler.sample(RAGGED, 1, max_tokens=10)
    assert [c.ids for c in found] != [c.ids for c in plain]
    model.eval()
    for prompt, completion in zip(RAGGED, found, strict=True):
        logp = scored(model, prompt, completion.ids).log_softmax(-1)
        expected = logp.gather(-1, torch.tensor(completion.ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(completion.logps, dtype=torch.float64), expected, atol=1e-9, rtol=0)
    with model.disable_adapter():
        assert sampler.sample(RAGGED, 1, max_tokens=10) == plain


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for the old name
def test_an_adapter_of_another_kind_falls_back() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(small(), peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).double()
    assert "LoRA" in (unsupported(model) or "")
    found = sampler_for(model).sample([[5, 6]], 1, max_tokens=4, temperature=0)
    assert list(found[0].ids) == generated(model.get_base_model(), [5, 6], 4)
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "virtual" in (unsupported(peft.get_peft_model(small(), prompts)) or "")


def test_a_biased_head_counts() -> None:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, 61, dtype=torch.float64))
    found = TorchSampler(model).sample([[5, 6]], 1, max_tokens=6, temperature=0)
    assert list(found[0].ids) == generated(model, [5, 6], 6)


@pytest.mark.gpu
def test_greedy_is_generate_on_a_gpu() -> None:
    model = small().cuda()
    found = TorchSampler(model).sample(RAGGED, 2, max_tokens=16, temperature=0)
    assert found == TorchSampler(model.cpu()).sample(RAGGED, 2, max_tokens=16, temperature=0)
