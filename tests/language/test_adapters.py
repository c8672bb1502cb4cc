"""Adapters: switched off they are the reference, saved they are peft's, loaded they are in the weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from advantage.errors import UserError
from advantage.language.adapters import with_adapters
from advantage.language.models import load_model, load_tokenizer, read_config, save_model
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rows import batch_of_rows
from advantage.language.scalar import head_name, last_scores, load_scalar, scalar_from_causal, score_head
from advantage.language.scoring import Scorer
from advantage.language.settings import Language
from advantage.language.setup import frozen, trainable
from advantage.runs import tensors
from advantage.trajectory import Batch
from tests.language.small import small_llama

IDS = [[5, 9, 3, 12, 7], [8, 2, 30]]
TOKENS, LENGTHS = torch.tensor([[5, 9, 3, 12, 7], [8, 2, 30, 0, 0]]), torch.tensor([5, 3])
NOW = SimpleNamespace(seed=lambda name: 3)

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def batch() -> Batch:
    return batch_of_rows(IDS, [[False, True, True, True, True], [False, False, True]])


def moved(model: Any) -> Any:
    """As if it had been trained: everything that is trainable stands elsewhere."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A small model in a folder."""
    save_model(small_llama(vocab=248, dtype=torch.float32), load_tokenizer("tiny"), tmp_path / "base")
    return str(tmp_path / "base")


# --- the reference ---


def test_the_reference_is_what_a_copy_of_the_model_says() -> None:
    policy = LanguagePolicy(with_adapters(small_llama(), 2, seed=1), temperature=0.7)
    copied = LanguagePolicy(small_llama(), temperature=0.7)
    reference = frozen(policy)
    expected = copied.evaluate(batch())
    moved(policy)
    torch.testing.assert_close(reference.evaluate(batch()).logp, expected.logp, rtol=0, atol=1e-12)
    torch.testing.assert_close(reference.evaluate(batch()).entropy, expected.entropy, rtol=0, atol=1e-12)
    assert (policy.evaluate(batch()).logp - expected.logp).abs().max() > 1e-3


def test_the_reference_costs_no_memory_and_leaves_the_policy_trainable() -> None:
    policy = LanguagePolicy(with_adapters(small_llama(), 2, seed=1), critic=Critic(32).double())
    before = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    reference = frozen(policy)
    assert reference.evaluate(batch()).values is None
    assert {name: parameter.requires_grad for name, parameter in policy.named_parameters()} == before
    own = {id(parameter) for parameter in policy.parameters()}
    assert {id(parameter) for parameter in reference._policy.parameters()} <= own  # type: ignore[attr-defined]
    assert isinstance(frozen(LanguagePolicy(small_llama())), LanguagePolicy), "all weights are trained: a copy"


# --- folders ---


def test_a_policy_s_folder_is_peft_s_with_the_value_head_beside_it(base: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    policy = LanguagePolicy(
        with_adapters(load_model(base), 2, seed=1), critic=Critic(32), tokenizer=load_tokenizer(base)
    )
    moved(policy).save(tmp_path / "policy")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    logits = policy.model(input_ids=TOKENS).logits
    torch.testing.assert_close(theirs(input_ids=TOKENS).logits, logits)
    arrays, _ = tensors.read(tmp_path / "policy/critic.safetensors")
    assert policy.critic is not None
    assert torch.equal(torch.as_tensor(arrays["value_head.weight"]), policy.critic.value_head.weight)
    merged = load_model(str(tmp_path / "policy"))
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, logits, rtol=1e-4, atol=1e-5)
    assert not hasattr(merged, "disable_adapter") and merged.name_or_path == str(tmp_path / "policy")
    assert read_config(tmp_path / "policy", False).num_hidden_layers == merged.config.num_hidden_layers


def test_a_reward_model_s_folder_is_peft_s_with_its_head(base: str, tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    scalar: Any = scalar_from_causal(load_model(base))
    scalar = with_adapters(scalar, 2, seed=1, head=head_name(scalar))
    trained = {name for name, parameter in scalar.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "score" in name for name in trained) and any("score" in name for name in trained)
    moved(scalar)
    Scorer(scalar, load_tokenizer(base)).save(tmp_path / "policy")
    scores = last_scores(scalar, TOKENS, LENGTHS)
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "policy", num_labels=1, dtype=torch.float32
    )
    torch.testing.assert_close(last_scores(theirs, TOKENS, LENGTHS), scores)
    again = load_scalar(str(tmp_path / "policy"))
    torch.testing.assert_close(last_scores(again, TOKENS, LENGTHS), scores, rtol=1e-4, atol=1e-5)
    assert isinstance(score_head(again), nn.Linear)


def test_adapters_upon_adapters_name_the_folder_below(base: str, tmp_path: Path) -> None:
    for name, target in (("one", base), ("two", str(tmp_path / "one"))):
        model = moved(with_adapters(load_model(target), 2, seed=1))
        save_model(model, load_tokenizer(base), tmp_path / name)
    config = json.loads((tmp_path / "two/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "one")
    loaded: Any = load_model(str(tmp_path / "two"))
    torch.testing.assert_close(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_adapters_that_cannot_be_used(base: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    save_model(with_adapters(load_model(base), 2, seed=1), load_tokenizer(base), folder)
    with pytest.raises(UserError, match=r"is no reward model: its adapters are of the kind CAUSAL_LM"):
        load_scalar(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())

    def told(**changes: Any) -> str:
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError) as caught:
            load_model(str(folder))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "./nowhere: no such folder" in told(base_model_name_or_path="./nowhere")
    assert "names no model" in told(base_model_name_or_path=None)
    assert "no model that continues text: its adapters are of the kind SEQ_CLS" in told(task_type="SEQ_CLS")
    assert "cannot be put on" in told(base_model_name_or_path="tiny")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "no adapter_model.safetensors; pickled ones are not read" in told()


# --- less memory ---


def test_what_is_saved_in_memory_changes_nothing_that_is_said() -> None:
    """Checkpointing asks for training mode, where GPT-2 drops a tenth of its activations unless it is told not to."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    expected = LanguagePolicy(model).evaluate(batch()).logp
    model = trainable(model, Language(gradient_checkpointing=True), NOW)  # type: ignore[arg-type]
    assert model.training and model.is_gradient_checkpointing
    torch.testing.assert_close(LanguagePolicy(model).evaluate(batch()).logp, expected)
