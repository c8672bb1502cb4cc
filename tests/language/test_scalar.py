from __future__ import annotations

import pytest
import torch

from advantage.errors import UserError
from advantage.language.models import load_model, load_tokenizer, save_model
from advantage.language.scalar import (
    last_scores,
    load_scalar,
    save_scalar,
    scalar_from_causal,
    score_head,
)
from advantage.language.scoring import scorer
from tests.language.small import small_llama, token_scores

LENGTHS = torch.tensor([3, 7, 1, 5])


@pytest.fixture
def scalar():
    return scalar_from_causal(small_llama(vocab=248), std=0.5)


def padded(with_id: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 248, (4, 7), generator=generator)
    tokens[torch.arange(7) >= LENGTHS.unsqueeze(1)] = with_id
    return tokens


def test_the_score_is_the_head_on_the_last_state_of_the_text_alone(scalar):
    """By hand: each text by itself, without padding."""
    tokens = padded(0)
    for row, length in enumerate(LENGTHS):
        hidden = scalar.model(input_ids=tokens[row : row + 1, :length]).last_hidden_state[0, -1]
        expected = (scalar.score.weight[0] * hidden).sum()
        torch.testing.assert_close(last_scores(scalar, tokens, LENGTHS)[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pad", [0, 1, 2, 200])
def test_padding_changes_no_score_whatever_its_id(scalar, pad):
    expected = last_scores(scalar, padded(0), LENGTHS)
    wider = torch.nn.functional.pad(padded(pad), (0, 4), value=pad)
    torch.testing.assert_close(last_scores(scalar, wider, LENGTHS), expected, rtol=0, atol=1e-12)


def test_a_text_that_ends_in_the_padding_token_is_read_to_its_end(scalar):
    """Where padding and end token are one, transformers' own forward reads one token too early."""
    tokens, lengths = torch.tensor([[9, 8, 2, 2, 2]]), torch.tensor([3])
    alone = scalar.model(input_ids=tokens[:, :3]).last_hidden_state[0, -1]
    torch.testing.assert_close(last_scores(scalar, tokens, lengths)[0], scalar.score(alone)[0], rtol=0, atol=1e-12)
    assert scalar(input_ids=tokens).logits[0, 0] != last_scores(scalar, tokens, lengths)[0]


def test_the_scores_of_tokens_end_in_the_score_of_the_text(scalar):
    tokens = padded(0)
    scores = token_scores(scalar, tokens, LENGTHS)
    assert scores.shape == tokens.shape
    at_end = scores.gather(1, (LENGTHS - 1).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(at_end, last_scores(scalar, tokens, LENGTHS), rtol=0, atol=1e-12)
    assert (scores[torch.arange(7) >= LENGTHS.unsqueeze(1)] == 0).all()


@pytest.mark.parametrize("length", [0, 8])
def test_lengths_that_no_text_has_are_refused(scalar, length):
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 7\]"):
        last_scores(scalar, padded(0), torch.tensor([3, 7, 1, length]))


def test_a_fresh_head_of_zero_scores_zero_and_learns():
    scalar = scalar_from_causal(small_llama(vocab=248))
    scores = last_scores(scalar, padded(0), LENGTHS)
    assert (scores == 0).all()
    scores.sum().backward()
    assert score_head(scalar).weight.grad.abs().min() > 0


def test_a_fresh_head_is_named_by_its_seed():
    model = small_llama(vocab=248)
    heads = [score_head(scalar_from_causal(model, std=0.02, seed=seed)).weight for seed in (3, 3, 4)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.01 < heads[0].std() < 0.04


def test_the_body_is_shared_and_the_language_model_stays_whole():
    model = small_llama(vocab=248)
    before = model(input_ids=padded(0)).logits
    scalar = scalar_from_causal(model)
    assert scalar.model is model.model
    assert scalar.config.num_labels == 1 and model.config.num_labels == 2
    assert torch.equal(model(input_ids=padded(0)).logits, before)
    assert not any(parameter.is_meta for parameter in scalar.parameters())


def test_saved_and_loaded_to_the_bit(tmp_path):
    scalar = scalar_from_causal(small_llama(vocab=248, dtype=torch.float32), std=0.5)
    save_scalar(scalar, load_tokenizer("tiny"), tmp_path)
    again = load_scalar(str(tmp_path))
    assert torch.equal(last_scores(again, padded(0), LENGTHS), last_scores(scalar, padded(0), LENGTHS))
    assert scalar.state_dict().keys() == again.state_dict().keys()


def test_transformers_scores_the_folder_alike(tmp_path):
    """Its forward looks for padding tokens: equal where padding is no token of the text, a whole batch at once."""
    from transformers import AutoModelForSequenceClassification

    scalar = scalar_from_causal(small_llama(vocab=248, dtype=torch.float32), std=0.5)
    save_scalar(scalar, load_tokenizer("tiny"), tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokens = padded(load_tokenizer("tiny").pad_token_id)
    mask = (torch.arange(7) < LENGTHS.unsqueeze(1)).long()
    scores = theirs(input_ids=tokens, attention_mask=mask).logits.squeeze(1)
    torch.testing.assert_close(scores, last_scores(scalar, tokens, LENGTHS), rtol=0, atol=1e-5)


def test_other_architectures_have_a_score_too():
    """GPT-2's body has another name."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0))
    scalar = scalar_from_causal(model.eval(), std=0.5)
    assert scalar.transformer is model.transformer
    assert last_scores(scalar, torch.arange(6).view(2, 3), torch.tensor([3, 2])).shape == (2,)


def test_reward_and_language_models_are_not_taken_for_each_other(tmp_path):
    with pytest.raises(UserError, match="is no reward model but a LlamaForCausalLM"):
        load_scalar("tiny")
    save_scalar(scalar_from_causal(load_model("tiny")), load_tokenizer("tiny"), tmp_path)
    with pytest.raises(UserError, match="is a reward model"):
        load_model(str(tmp_path))


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    from transformers import LlamaForSequenceClassification

    config = small_llama(vocab=248).config
    config.num_labels = 3
    save_model(LlamaForSequenceClassification(config), load_tokenizer("tiny"), tmp_path)
    with pytest.raises(UserError, match="gives 3 numbers to a text"):
        load_scalar(str(tmp_path))


def test_a_language_model_without_such_a_head_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4))
    with pytest.raises(UserError, match="has no model of kind mamba that scores a text"):
        scalar_from_causal(model)


def test_a_cut_completion_is_scored_after_its_last_token_and_one_that_ended_after_its_end(tmp_path):
    tokenizer = load_tokenizer("tiny")
    model = scalar_from_causal(load_model("tiny"), std=0.5)
    save_scalar(model, tokenizer, tmp_path)
    prompt, answer = tokenizer("2+2=")["input_ids"], tokenizer("4", add_special_tokens=False)["input_ids"]
    rows = [[*prompt, *answer, tokenizer.eos_token_id], [*prompt, *answer]]
    with torch.no_grad():
        expected = [last_scores(model, torch.tensor([row]), torch.tensor([len(row)])).item() for row in rows]
    found = scorer(str(tmp_path))(["2+2="] * 2, ["4"] * 2, [False, True])
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
