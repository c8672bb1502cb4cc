"""A causal language model as a policy: its evaluation of a batch, with a critic where the algorithm has one."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advantage.language.logprobs import chosen_logprobs, head_of
from advantage.language.models import save_model
from advantage.language.packing import Layout, Packing, read
from advantage.runs import durable, tensors
from advantage.trajectory import Batch, Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Trained(nn.Module):
    """A module whose state is what is trained of it."""

    def state(self) -> dict[str, Tensor]:
        """What is trained, by name: frozen weights are those of the model that it began with."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave.

        Raises:
            ValueError: names or shapes are not those of this model.
        """
        own = self.state()
        if wrong := sorted(own.keys() ^ state.keys()):
            raise ValueError(f"{wrong[0]} is in one of both alone")
        for name, parameter in own.items():
            parameter.copy_(torch.as_tensor(state[name]).view_as(parameter))


class LanguagePolicy(Trained):
    """π(token | text before it) of a causal model of transformers, at the temperature that it is sampled at.

    Args:
        model: the causal model.
        temperature: > 0, of sampling and scoring alike.
        critic: V(text) from hidden states; None where a baseline needs none.
        compute: dtype of matrix products; None for that of the weights.
        tokenizer: saved beside the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float = 1.0,
        critic: Critic | None = None,
        compute: torch.dtype | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.model, self.critic = model, critic
        self.temperature, self.compute, self.tokenizer = temperature, compute, tokenizer

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities, entropies and, with a critic, the values before each action, (rows, time).

        The batch may lie on another device than the model; what is said of it lies where the batch does.
        """
        assert batch.mask is not None and batch.length is not None
        tokens = batch.context["tokens"][:, : int(batch.length.max())]
        layout = self.packing.layout(tokens, batch.context["positions"][:, 0], batch.length, batch.unit)
        rows, steps = batch.mask.nonzero(as_tuple=True)
        before = batch.context["positions"][rows, steps] - 1
        head = head_of(self.model)
        device = head.weight.device
        layout, actions = layout.to(device), batch.actions[rows, steps].to(device)
        places = rows.to(device), before.to(device)
        with computing(self.compute, device):
            states = read(head.backbone, layout)
            logp, entropy = chosen_logprobs(layout.pick(states, *places), actions, head, self.temperature)
            values = None if self.critic is None else layout.pick(self.critic(layout, states), *places)
        return Evaluation(
            logp=_spread(logp, batch.mask),
            entropy=_spread(entropy, batch.mask),
            values=None if values is None else _spread(values, batch.mask),
        )

    @cached_property
    def packing(self) -> Packing:
        """How a batch's rows are read."""
        own = None if self.critic is None else self.critic.backbone
        backbone = head_of(self.model).backbone
        return Packing(backbone) if own is None else Packing(backbone, own)

    def save(self, folder: Path) -> None:
        """Writes an ordinary transformers folder, and the critic beside it."""
        assert self.tokenizer is not None
        save_model(self.model, self.tokenizer, folder)
        if self.critic is not None:
            critic = {name: value.clone() for name, value in self.critic.state_dict().items()}
            durable.replace(folder / "critic.safetensors", lambda draft: tensors.write(draft, critic, {}))


class Critic(nn.Module):
    """V of every prefix of a text: a linear head on the policy's own hidden states, or on a backbone of its own.

    Args:
        size: of the hidden states.
        backbone: of its own; None to stand on the policy's.
    """

    def __init__(self, size: int, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.value_head = nn.Linear(size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, layout: Layout, states: Tensor) -> Tensor:
        """Values (R, W) of the rows of a layout, given the policy's hidden states (R, W, d) of them."""
        if self.backbone is not None:
            states = read(self.backbone, layout)
        values: Tensor = self.value_head(states).squeeze(-1).to(self.value_head.weight.dtype)
        return values


def computing(dtype: torch.dtype | None, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where matrix products are of that dtype; None leaves them that of the weights."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Numbers of the true entries back in their places."""
    values = values.to(mask.device)
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
