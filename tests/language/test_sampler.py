"""What is sampled: the right distribution, by numbers of its own, until it stops."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advantage.errors import NonFinite, UserError
from advantage.language import decode, forward, sampler
from advantage.language.draw import draw, kept
from advantage.language.request import Request
from advantage.language.sampler import GenerateSampler, TorchSampler, sampler_for, stream
from advantage.runs.streams import Streams
from tests.language.hand_tokenizers import byte_tokenizer
from tests.language.small import small_llama

RAGGED = [list(range(3, 4 + 3 * place)) for place in range(4)] + [[9, 8, 7 + place] for place in range(8)]
BOTH = pytest.mark.parametrize("kind", [TorchSampler, GenerateSampler])


def brute(logits: Tensor, uniform: float, temperature: float, top_p: float, top_k: int) -> tuple[int, float]:
    """The definition, token by token in Python's floats."""
    z = [float(x) / temperature for x in logits]
    order = sorted(range(len(z)), key=lambda token: -z[token])
    if top_k:
        order = order[:top_k]
    total = math.fsum(math.exp(z[token]) for token in order)
    chosen, mass = [], 0.0
    for token in order:
        if mass >= top_p:
            break
        chosen.append(token)
        mass += math.exp(z[token]) / total
    total = math.fsum(math.exp(z[token]) for token in chosen)
    upto = 0.0
    for token in sorted(chosen):
        share = math.exp(z[token]) / total
        upto += share
        if upto > uniform:
            return token, math.log(share)
    return max(chosen), math.log(share)


@pytest.mark.parametrize("vocabulary", [5, 256, 700, 2100])
@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1, 1, 0), (0.7, 1, 0), (1, 0.9, 0), (1.3, 0.6, 40)])
def test_draw_is_its_definition(vocabulary: int, temperature: float, top_p: float, top_k: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn(40, vocabulary, generator=generator, dtype=torch.float64)
    logits[:, 2] = -torch.inf
    uniform = torch.rand(40, generator=generator, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    token, logp = draw(logits, uniform, temperature, top_p, top_k)
    for row in range(40):
        expected = brute(logits[row], float(uniform[row]), temperature, top_p, top_k)
        assert int(token[row]) == expected[0]
        assert float(logp[row]) == pytest.approx(expected[1], abs=1e-10)


def test_draw_never_takes_what_cannot_be() -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.full((4, 1000), -torch.inf, dtype=dtype)
        logits[:, [255, 256, 999]] = 0.0
        uniform = torch.tensor([0.0, 1 / 3 + 1e-12, 1 - 2**-53, 0.5], dtype=torch.float64)
        token, logp = draw(logits, uniform, 1.0, 1.0, 0)
        assert token.tolist() == [255, 256, 999, 256]
        torch.testing.assert_close(logp, torch.full((4,), -math.log(3), dtype=dtype))


def test_kept_tokens() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05]], dtype=torch.float64).log()
    for top_p, top_k, count in (
        (1, 0, 5),
        (0.39, 0, 1),
        (0.41, 0, 2),
        (0.7001, 0, 3),
        (1, 2, 2),
        (0.6, 3, 2),
        (1, 9, 5),
    ):
        assert int(kept(logits, top_p, top_k).isfinite().sum()) == count, (top_p, top_k)
    equal = torch.zeros(1, 600)
    assert int(kept(equal, 0.5, 0).isfinite().sum()) == 600  # equals are kept together
    assert int(kept(equal, 1, 7).isfinite().sum()) == 600
    flat = torch.linspace(0, 0.1, 3000, dtype=torch.float64)[None]  # more than are looked at first
    share = flat.softmax(-1).sort(descending=True).values.cumsum(-1)
    assert int(kept(flat, 0.9, 0).isfinite().sum()) == int((share < 0.9).sum()) + 1


def test_kept_tokens_are_those_of_transformers() -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(20, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids: Any = None
    for top_p, top_k in ((0.3, 0), (0.95, 0), (0.9, 20), (1.0, 7)):
        theirs = TopKLogitsWarper(top_k)(ids, logits) if top_k else logits
        theirs = TopPLogitsWarper(top_p)(ids, theirs)
        assert torch.equal(kept(logits, top_p, top_k), theirs)


@BOTH
@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(0.7, 1.0, 0), (1.0, 0.8, 0), (1.5, 0.9, 12)])
def test_logps_are_those_of_the_distribution_drawn_from(
    kind: Any, temperature: float, top_p: float, top_k: int
) -> None:
    for dtype, near in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = small_llama(dtype=dtype)
        found = kind(model).sample(RAGGED, 2, max_tokens=10, temperature=temperature, top_p=top_p, top_k=top_k)
        for row, completion in enumerate(found):
            prompt = RAGGED[row // 2]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *completion.ids]])).logits[0, len(prompt) - 1 : -1]
            logp = kept(logits.double() / temperature, top_p, top_k).log_softmax(-1)
            expected = logp.gather(-1, torch.tensor(completion.ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(
                torch.tensor(completion.logps, dtype=torch.float64), expected, atol=near, rtol=near
            )


def chance(counts: Tensor, expected: Tensor) -> float:
    """P(χ² ≥ what was seen) if the counts come from what is expected; cells of fewer than 5 are joined."""
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    assert float(counts[expected == 0].sum()) == 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    chi = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0).double(), chi / 2))


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 0.8, 0), (2.0, 1.0, 9)])
def test_the_distribution_of_a_token(temperature: float, top_p: float, top_k: int) -> None:
    """20,000 samples against the exact probabilities, χ² at 99.9 %."""
    model, prompt, count = small_llama(), [5, 6, 7], 20_000
    how: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    found = TorchSampler(model).sample([prompt], count, max_tokens=1, **how)
    counts = torch.bincount(torch.tensor([completion.ids[0] for completion in found]), minlength=61).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[:, -1]
    expected = count * kept(logits / temperature, top_p, top_k).softmax(-1)[0]
    assert chance(counts, expected) > 1e-3


def test_the_distribution_of_a_pair_of_tokens() -> None:
    """6,400 pairs against their exact joint probabilities, χ² at 99.9 %: neighbouring numbers know nothing of each
    other, over samples, prompts, steps and seeds alike.
    """
    model, count = small_llama(vocab=7, tie_word_embeddings=False), 3_000
    with torch.no_grad():
        first = model(input_ids=torch.tensor([[3]])).logits[0, -1].softmax(-1)
        second = model(input_ids=torch.tensor([[3, token] for token in range(7)])).logits[:, -1].softmax(-1)
    expected = (first[:, None] * second).flatten()
    draws = TorchSampler(model)
    found = draws.sample([[3]], count, max_tokens=2)
    found += draws.sample([[3]] * count, 1, max_tokens=2, indices=range(1, count + 1))
    found += [draws.sample([[3]], 1, max_tokens=2, step=step)[0] for step in range(1, 201)]
    found += [draws.sample([[3]], 1, max_tokens=2, seed=seed)[0] for seed in range(1, 201)]
    counts = torch.bincount(torch.tensor([7 * c.ids[0] + c.ids[1] for c in found]), minlength=49).double()
    assert chance(counts, expected * len(found)) > 1e-3


def test_the_numbers_are_named_streams() -> None:
    """A uniform model, so that a token tells its number: "completions/<sample>" at (step, prompt index)."""
    model = small_llama(vocab=64, tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    found = TorchSampler(model).sample([[3], [4, 5]], 2, max_tokens=6, seed=5, step=3, indices=[70, 2])
    for completion, (prompt, draw_of) in zip(found, itertools.product([70, 2], range(2)), strict=True):
        uniform = Streams(5).rng(f"completions/{draw_of}", 3, prompt).random(6)
        assert list(completion.ids) == np.floor(uniform * 64).astype(int).tolist()
        assert completion.logps == pytest.approx([-math.log(64)] * 6, abs=1e-12)


@BOTH
def test_neighbours_change_nothing(kind: Any) -> None:
    model = small_llama()
    how: dict[str, Any] = {"max_tokens": 14, "temperature": 0.9, "top_p": 0.95, "stop_ids": [1, 20, 30], "seed": 3}
    together = kind(model).sample(RAGGED, 4, **how)
    assert kind(model).sample(RAGGED, 4, **how) == together  # nothing is drawn from what is shared
    for turns in (1, 7):
        near(kind(model, rows=turns).sample(RAGGED, 4, **how), together)
    for place in (0, 3, 7):
        alone = kind(model).sample([RAGGED[place]], 4, indices=[place], **how)
        near(alone, together[4 * place : 4 * place + 4])
        near(kind(model).sample([RAGGED[place]], 1, indices=[place], **how), together[4 * place : 4 * place + 1])
    backwards = kind(model).sample(RAGGED[::-1], 4, indices=range(11, -1, -1), **how)
    near([backwards[4 * (11 - place) + draw_of] for place in range(12) for draw_of in range(4)], together)
    longer = kind(model).sample(RAGGED, 4, **{**how, "max_tokens": 20})
    assert all(a.ids == b.ids[:14] for a, b in zip(together, longer, strict=True))


def near(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.ids, a.finish_reason) == (b.ids, b.finish_reason)
        assert a.logps == pytest.approx(b.logps, abs=1e-10)


@BOTH
def test_both_samplers_draw_the_same(kind: Any) -> None:
    model = small_llama(seed=3)
    how: dict[str, Any] = {"max_tokens": 14, "temperature": 1.2, "top_k": 30, "stop_ids": [20, 21]}
    near(kind(model).sample(RAGGED, 3, **how), sampler_for(model).sample(RAGGED, 3, **how))


def test_other_seeds_steps_and_indices_draw_others() -> None:
    draws = TorchSampler(small_llama())
    seen = [
        draws.sample([[5, 6]], 2, max_tokens=12, **how)
        for how in ({}, {"seed": 1}, {"step": 1}, {"indices": [1]})  # type: ignore[arg-type]
    ]
    assert len({completion.ids for group in seen for completion in group}) == 8


@BOTH
def test_stop_ids_end_and_stay(kind: Any) -> None:
    ends = (1, 20, 33, 40)
    found = kind(small_llama()).sample(RAGGED, 4, max_tokens=20, stop_ids=ends)
    assert {completion.finish_reason for completion in found} == {"stop", "length"}
    for completion in found:
        assert len(completion.ids) == len(completion.logps)
        assert not set(completion.ids[:-1]) & set(ends)
        stopped = completion.ids[-1] in ends
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.ids) == 20


@BOTH
def test_a_stop_at_the_last_token_is_a_stop(kind: Any) -> None:
    draws = kind(small_llama())
    (long,) = draws.sample([[5]], 1, max_tokens=9)
    (cut,) = draws.sample([[5]], 1, max_tokens=9, stop_ids=[long.ids[-1]] if long.ids[-1] not in long.ids[:-1] else [])
    assert cut.ids == long.ids and cut.finish_reason == "stop"


@pytest.mark.parametrize(("kind", "where"), [(TorchSampler, decode.Decoder), (GenerateSampler, forward.ForwardDecoder)])
def test_finished_rows_leave(kind: Any, where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    advance = where.advance
    monkeypatch.setattr(where, "advance", lambda self, tokens: rows.append(len(tokens)) or advance(self, tokens))
    prompts = [[9, 8, place] for place in range(3, 15)]
    found = kind(small_llama()).sample(prompts, 4, max_tokens=20, stop_ids=range(1, 12))
    lengths = [len(completion.ids) for completion in found]
    assert rows == [alive for place in range(1, 20) if (alive := sum(length > place for length in lengths))]
    assert rows[-1] < 48


def test_stop_strings_over_token_borders() -> None:
    tokenizer = byte_tokenizer(adds="", merges=[("a", "b"), ("c", "d")])
    model = small_llama(vocab=len(tokenizer))
    letters = tokenizer.convert_tokens_to_ids(["a", "b", "c", "d", "ab", "cd"])
    model.lm_head.bias = torch.nn.Parameter(torch.full((len(tokenizer),), -300.0, dtype=torch.float64))
    model.lm_head.bias.data[letters] = 0.0
    model.lm_head.weight.data = 0.05 * model.lm_head.weight.data
    for kind in (TorchSampler, GenerateSampler):
        found = kind(model, tokenizer).sample([letters], 60, max_tokens=12, stop=["bc", "dad"])
        ways = Counter()
        for completion in found:
            text, before = (tokenizer.decode(list(completion.ids)[:upto]) for upto in (None, -1))
            assert "bc" not in before and "dad" not in before
            assert completion.finish_reason == ("stop" if "bc" in text or "dad" in text else "length")
            ways[tokenizer.decode(list(completion.ids)[-1:]) if completion.finish_reason == "stop" else ""] += 1
        assert {"c", "cd", "d"} <= set(ways)


def test_a_stream_is_the_sampled_text() -> None:
    tokenizer = byte_tokenizer(adds="")
    model = small_llama(vocab=len(tokenizer))
    prompt = tokenizer.encode("é:")
    for seed in range(4):
        how: dict[str, Any] = {"max_tokens": 40, "seed": seed, "step": 2, "temperature": 0.8}
        pieces = list(stream(model, tokenizer, prompt, index=7, **how))
        (completion,) = sampler_for(model, tokenizer).sample([prompt], 1, indices=[7], **how)
        assert "".join(pieces) == tokenizer.decode(list(completion.ids), skip_special_tokens=True)
        assert len(pieces) > 5 and all(pieces)
    with pytest.raises(UserError, match="empty"):
        stream(model, tokenizer, [], max_tokens=3)
    first = next(stream(model, tokenizer, prompt, max_tokens=200))  # nothing waits for the end
    assert first and torch.zeros(1, requires_grad=True).requires_grad and not torch.is_inference_mode_enabled()


@BOTH
def test_the_model_stays_as_it_was(kind: Any) -> None:
    model = small_llama(attention_dropout=0.9)
    expected = kind(model).sample([[5, 6]], 1, max_tokens=5)
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert kind(model).sample([[5, 6]], 1, max_tokens=5) == expected
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()  # nothing was left in inference mode


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")  # the name that 5.17 knows
def test_a_model_in_training_with_checkpointing() -> None:
    model = small_llama()
    expected = GenerateSampler(model).sample([[5, 6], [7]], 2, max_tokens=5)
    model.gradient_checkpointing_enable()
    model.train()
    assert GenerateSampler(model).sample([[5, 6], [7]], 2, max_tokens=5) == expected


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompts": [[5], []]}, "prompt 1 is empty"),
    ({"prompts": [[5] * 247]}, "prompt 0 has 247 tokens, which with max_tokens=10 exceeds the model's context of 256"),
    ({"prompts": [[5, 61]]}, r"prompt 0 holds token 61, but the model's vocabulary is \[0, 61\)"),
    ({"prompts": [[-1]]}, "prompt 0 holds token -1"),
    ({"prompts": [[5], []], "indices": [3, 44]}, "prompt 44 is empty"),
    ({"indices": [1, 2]}, "indices has 2 numbers for 1 prompts"),
    ({"indices": [-1]}, "index is -1"),
    ({"n": 0}, "n is 0"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 1.1}, "top_p is 1.1"),
    ({"top_k": -1}, "top_k is -1"),
    ({"step": -1}, "step is -1"),
    ({"stop_ids": [None]}, "stop_ids"),
    ({"stop": ["x"]}, "no tokenizer"),
    ({"stop": [""]}, "none of them empty"),
    ({"stop": "word"}, "list of strings"),
]


@BOTH
@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_bad_input(kind: Any, wrong: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"prompts": [[5]], "n": 1, "max_tokens": 10, **wrong}
    with pytest.raises(UserError, match=message) as error:
        kind(small_llama()).sample(**asked)
    assert "\n" not in str(error.value)


def test_the_longest_prompt_fits() -> None:
    for kind in (TorchSampler, GenerateSampler):
        (found,) = kind(small_llama()).sample([[5] * 246], 1, max_tokens=10)
        assert len(found.ids) == 10
        assert kind(small_llama()).sample([], 3, max_tokens=10) == []


@BOTH
def test_logits_that_are_not_finite(kind: Any) -> None:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.weight.data[7, 0] = torch.nan
    with pytest.raises(NonFinite, match=r"token 0 .* prompt 17 \(step 4\)"):
        kind(model).sample([[5, 6]], 2, max_tokens=3, indices=[17], step=4)
    model = small_llama(tie_word_embeddings=False)
    model.model.embed_tokens.weight.data[9] = torch.inf
    with pytest.raises(NonFinite, match="token 0 .* prompt 5"):
        kind(model).sample([[5, 6], [8, 9]], 2, max_tokens=3, indices=[4, 5])


def test_notes_and_turns() -> None:
    model = small_llama()
    assert sampler_for(model).notes == []
    assert sampler_for(model).rows == sampler.ROWS
    request = Request([[3]], 1, 4)
    tokens = list(sampler_for(model).tokens(request))
    assert [token.finish for token in tokens] == ["", "", "", "length"]
