"""Several completions behind one prompt: the same numbers as a row each, for every architecture that is packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from advantage.language import packing
from advantage.language.logprobs import head_of
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rows import batch_of, rollout_of
from advantage.language.scalar import scalar_from_causal
from advantage.language.scoring import Scorer, batch_of_places
from advantage.language.types import Completion, Prompt
from advantage.trajectory import Batch
from tests.language.small import small_llama, with_precise_norms

LENGTHS = (5, 1, 7, 3, 3, 6, 2, 8, 4)


def data(prompts: tuple[int, ...] = (4, 9, 2), lengths: tuple[int, ...] = LENGTHS) -> Batch:
    numbers = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 61, (count,), generator=numbers).tolist())

    asked = [Prompt(ids(size), "", {}, index) for index, size in enumerate(prompts)]
    return batch_of(rollout_of(asked, [Completion(ids(length), (-1.0,) * length, "stop") for length in lengths]))


def layout(batch: Batch, size: float = 1.0, width: float = 0.0) -> packing.Layout:
    assert batch.length is not None
    return packing.packed(
        batch.context["tokens"], batch.context["positions"][:, 0], batch.length, batch.unit, size, width
    )


def states(model: Any, batch: Batch, of: packing.Layout) -> Tensor:
    rows, steps = batch.mask.nonzero(as_tuple=True)  # type: ignore[union-attr]
    return of.pick(packing.read(head_of(model).backbone, of), rows, batch.context["positions"][rows, steps] - 1)


def other_model(family: str, **changes: Any) -> Any:
    import transformers

    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(**shape, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).double().eval()


def test_a_prompt_is_read_once_for_its_completions() -> None:
    batch = data()
    of = layout(batch)
    assert of.tokens.shape == (3, 9 + 2 + 2 + 5)  # the longest: a prompt of 9, completions of 3, 3 and 6 less one each
    assert of.row.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert of.mask is not None and of.positions is not None
    assert of.positions[0].tolist()[:14] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9]
    see = of.mask[0, 0]
    assert see[9].nonzero().flatten().tolist() == [0, 1, 2, 3, 8, 9]  # the third completion's second token


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_packed_rows_give_the_states_of_single_ones(attention: str, together: int) -> None:
    model, batch = small_llama(), data()
    model.set_attn_implementation(attention)
    assert batch.length is not None
    start = batch.context["positions"][:, 0]
    begins = packing._every(packing._first_of_a_prompt(batch.context["tokens"], start), torch.tensor(together))
    of = packing._laid_out(batch.context["tokens"], start, batch.length, begins)
    alone = states(model, batch, packing.plain(batch.context["tokens"]))
    bound = 1e-12 if attention == "sdpa" else 5e-6  # eager attention takes its softmax in float32
    torch.testing.assert_close(states(model, batch, of), alone, rtol=0, atol=bound)


@pytest.mark.parametrize("critic", ["head", "own"])
def test_the_policy_says_the_same_either_way(critic: str) -> None:
    backbone = with_precise_norms(small_llama(seed=7)).get_decoder() if critic == "own" else None
    value = Critic(32, backbone).double()
    torch.nn.init.normal_(value.value_head.weight, generator=torch.Generator().manual_seed(0))
    policy, batch = LanguagePolicy(with_precise_norms(small_llama()), 1.3, value), data()
    found = []
    for can in (True, False):
        policy.packing.possible = can  # type: ignore[misc]
        policy.zero_grad()
        new = policy.evaluate(batch)
        (new.logp.sum() + new.values.square().sum() + new.entropy.sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        found.append((new.logp.detach(), new.values.detach(), gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_policy_reads_each_prompt_once() -> None:
    policy, batch = LanguagePolicy(small_llama()), data()
    assert policy.packing.possible
    given = batch.context["tokens"], batch.context["positions"][:, 0], batch.length
    assert len(policy.packing.layout(*given).tokens) == 3
    policy.packing.possible = False  # type: ignore[misc]
    assert len(policy.packing.layout(*given).tokens) == 9


def test_what_the_rows_of_a_unit_have_in_common() -> None:
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8], [5, 6, 9, 8], [5, 6, 0, 0], [3, 3, 3, 3]])
    length, unit = torch.tensor([4, 4, 4, 2, 3]), torch.tensor([0, 0, 1, 1, 2])
    assert packing.common(tokens, length, unit).tolist() == [2, 2, 2, 2, 3]
    assert packing.common(tokens, length, torch.tensor([0, 0, 0, 1, 2])).tolist() == [2, 2, 2, 2, 3]


def test_a_reward_model_scores_a_pair_as_its_texts_alone() -> None:
    body = with_precise_norms(small_llama())
    with torch.random.fork_rng(devices=[]):
        scorer = Scorer(scalar_from_causal(body, std=1.0), None)  # type: ignore[arg-type]
    texts = [(5, 6, 7, 8, 9), (5, 6, 7, 10), (11, 12, 13), (11, 12), (4, 4), (3,)]
    batch = batch_of_places(texts, [[len(text) - 1] for text in texts], unit=torch.arange(3).repeat_interleave(2))
    scores = scorer.evaluate(batch).values
    assert len(scorer.packing.layout(batch.context["tokens"], *shared(batch)).tokens) < 6
    for text, score in zip(texts, scores.flatten(), strict=True):  # type: ignore[union-attr]
        alone = scorer.evaluate(batch_of_places([text], [[len(text) - 1]])).values
        torch.testing.assert_close(alone.flatten()[0], score, rtol=0, atol=1e-12)  # type: ignore[union-attr]


def shared(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.length is not None and batch.unit is not None
    return packing.common(batch.context["tokens"], batch.length, batch.unit), batch.length


def test_prompts_are_known_by_their_tokens() -> None:
    batch = data(lengths=(5, 2, 3))
    tokens, start = batch.context["tokens"].clone(), batch.context["positions"][:, 0]
    same = tokens[:1].expand(3, -1).clone()
    assert packing._first_of_a_prompt(same, torch.tensor([4, 4, 4])).tolist() == [True, False, False]
    assert packing._first_of_a_prompt(same, torch.tensor([4, 5, 5])).tolist() == [True, True, False]
    same[1, 3] += 1
    assert packing._first_of_a_prompt(same, torch.tensor([4, 4, 4])).tolist() == [True, True, True]
    assert packing._first_of_a_prompt(tokens, start).tolist() == [True, True, True]


def test_as_many_go_together_as_is_cheapest() -> None:
    def cheapest(prompt: int, completion: int, size: float, width: float) -> int:
        fresh = torch.tensor([True] + 7 * [False])
        given = torch.full((8,), prompt), torch.full((8,), completion)
        return int(packing._cheapest(fresh, *given, size, width)[0])

    assert cheapest(256, 48, 1.0, 0.0) == 8
    assert cheapest(20, 2000, 100.0, 1.0) == 1
    assert 1 < cheapest(256, 48, 500.0, 1.0) <= 8


def test_a_prompt_s_rows_decide_alone_how_many_go_together() -> None:
    batch = data(prompts=(40, 2, 2), lengths=(2, 2, 2, 60, 60, 60, 3, 3, 3))
    of = layout(batch, 10.0, 1.0)
    assert of.row.tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    alone = layout(batch.rows(slice(0, 3)), 10.0, 1.0)
    assert alone.row.tolist() == [0, 0, 0]


def test_rows_of_two_units_share_nothing() -> None:
    batch = data(prompts=(4,), lengths=(3, 3, 3, 3))
    assert layout(batch).row.tolist() == [0, 0, 0, 0]
    assert layout(batch.replace(unit=torch.tensor([0, 0, 1, 1]))).row.tolist() == [0, 0, 1, 1]
    assert layout(batch.replace(unit=None)).row.tolist() == [0, 0, 0, 0]


def test_a_row_without_a_decision_is_no_obstacle() -> None:
    batch = data()
    assert batch.mask is not None
    mask = batch.mask.clone()
    mask[4] = False
    model = small_llama()
    severed = batch.replace(mask=mask, length=torch.where(mask.any(-1), batch.length, 1))  # type: ignore[arg-type]
    new = LanguagePolicy(model).evaluate(severed)
    kept = LanguagePolicy(model).evaluate(batch).logp.masked_fill(~mask, 0.0)
    torch.testing.assert_close(new.logp, kept, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("model", "can"),
    [
        (small_llama, True),
        (lambda: other_model("Qwen2", intermediate_size=48, num_key_value_heads=2), True),
        (lambda: other_model("Mistral", intermediate_size=48, num_key_value_heads=2, sliding_window=8), False),
        (
            lambda: other_model(
                "Qwen2", intermediate_size=48, use_sliding_window=True, sliding_window=8, max_window_layers=1
            ),
            False,
        ),
        (lambda: other_model("GPT2"), True),
        (lambda: other_model("Bloom"), False),
        (lambda: other_model("Mamba"), False),
    ],
    ids=["llama", "qwen2", "mistral with a window", "qwen2 with windows", "gpt2", "bloom", "mamba"],
)
def test_only_a_backbone_that_heeds_masks_is_packed(model: Any, can: bool) -> None:
    backbone = head_of(model()).backbone
    assert packing.can_pack(backbone) is can


def test_a_backbone_that_ignores_the_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = head_of(small_llama()).backbone
    heeding = backbone.forward

    def heedless(*given: Any, attention_mask: Any = None, position_ids: Any = None, **more: Any) -> Any:
        return heeding(*given, position_ids=position_ids, **more)

    monkeypatch.setattr(backbone, "forward", heedless)
    assert not packing.can_pack(backbone)
