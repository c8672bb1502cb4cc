"""The weights of a Llama-like model of transformers, laid out for decoding, and which models are Llama-like.

What pays on a CPU as on a GPU: q, k and v are one product, gate and up another; on a CPU, weights are laid out once for
the many products of a call. No layer's own `forward` runs, so that whatever changes it (a window, a quantised product,
an adapter of an unknown kind) is looked for and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from advantage.errors import UserError
from advantage.language.logprobs import head_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
_ROWS = 32  # that a product is laid out for; it takes any number
_ROPE = ("default", "linear", "llama3", "yarn")  # the frequencies of the others change with the length

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Product:
    """x Wᵀ + b, the weight laid out once for the many small products to come where oneDNN can.

    PyTorch's own product lays it out anew each time, which costs a few rows as much as the multiplication.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = bias
        self._packed = weight.device.type == "cpu" and _packs(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out)."""
        if not self._packed:
            return linear(x, self._weight, self._bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


class _Layer(NamedTuple):
    """One layer's weights: q, k and v joined, gate and up joined."""

    qkv: Product
    out: Product
    up: Product
    down: Product
    before_attention: Tensor
    before_mlp: Tensor
    heads: Tensor | None  # norms of the query and key heads, a row each
    act: Callable[[Tensor], Tensor]


class Weights:
    """A model's weights as they are now, laid out for decoding.

    Joined ones are copies: take new ones after every update of the model.

    Args:
        model: a model that `unsupported` has nothing against.
        dtype: to compute in; None for that of the model, under autocast for autocast's.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        inner = inner_model(model)
        backbone, config = inner.model, inner.config
        self.embed: Tensor = backbone.embed_tokens.weight
        self.device = self.embed.device
        if dtype is None and torch.is_autocast_enabled(self.device.type):
            dtype = torch.get_autocast_dtype(self.device.type)
        self.dtype = dtype or self.embed.dtype
        self.context: int = config.max_position_embeddings
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = backbone.layers[0].self_attn.head_dim
        self.scaling: float = backbone.layers[0].self_attn.scaling
        self.eps: float = backbone.norm.variance_epsilon
        self.layers = [self._layer(layer) for layer in backbone.layers]
        self.norm = backbone.norm.weight.to(self.dtype)
        head = head_of(model)
        self._scale, self._cap = head.scale, head.cap
        self._head = Product(head.weight.to(self.dtype), None if head.bias is None else head.bias.to(self.dtype))
        self._rotary = backbone.rotary_emb

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp, heads = layer.self_attn, layer.mlp, None
        if hasattr(attention, "q_norm"):
            norms = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.kv_heads
            heads = torch.stack(norms).to(self.dtype)
        return _Layer(
            qkv=_joined([attention.q_proj, attention.k_proj, attention.v_proj], self.dtype),
            out=_joined([attention.o_proj], self.dtype),
            up=_joined([mlp.gate_proj, mlp.up_proj], self.dtype),
            down=_joined([mlp.down_proj], self.dtype),
            before_attention=layer.input_layernorm.weight.to(self.dtype),
            before_mlp=layer.post_attention_layernorm.weight.to(self.dtype),
            heads=heads,
            act=mlp.act_fn,
        )

    def rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, 1, head size) of the first places; the sines carry the sign of their half."""
        places = torch.arange(length, device=self.device)[None]
        cos, sin = self._rotary(self.norm, places)
        half = sin.shape[-1] // 2
        return cos[0, :, None], torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], -1)

    def hidden(self, ids: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Hidden states (N, d) of tokens (N,); `attend` gets the layer's number, q, k and v (N, heads, head size)."""
        x = self.embed[ids].to(self.dtype)
        turned = self.heads + self.kv_heads
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(_norm(x, layer.before_attention, self.eps))
            qkv = qkv.view(len(x), turned + self.kv_heads, self.head_dim)
            qk = qkv[:, :turned]
            if layer.heads is not None:
                qk = _norm(qk, layer.heads, self.eps)
            qk = qk * cos + qk.roll(self.head_dim // 2, -1) * sin
            mixed = attend(index, qk[:, : self.heads], qk[:, self.heads :], qkv[:, turned:])
            x = x + layer.out(mixed)
            gate, up = layer.up(_norm(x, layer.before_mlp, self.eps)).chunk(2, -1)
            x = x + layer.down(layer.act(gate) * up)
        return _norm(x, self.norm, self.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (N, vocabulary), in float32 at least."""
        logits = self._head(hidden)
        logits = logits.to(torch.float64 if self.dtype == torch.float64 else torch.float32)
        if self._scale != 1:
            logits = logits * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


def inner_model(model: Any) -> Any:
    """The model of transformers that peft wraps, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unsupported(model: PreTrainedModel) -> str | None:
    """Why `Weights` cannot decode this model, in words; None where it can."""
    inner = inner_model(model)
    name = type(inner).__name__
    if name not in [f"{family}ForCausalLM" for family in FAMILIES] or not _of_transformers(inner):
        return f"{name} is none of {', '.join(FAMILIES)}"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter adds virtual tokens"
    config, backbone = inner.config, inner.model
    if window(config) < config.max_position_embeddings:
        return f"it attends within a sliding window of {window(config)} tokens"
    rotary = backbone.rotary_emb
    if getattr(rotary, "rope_type", "default") not in _ROPE:
        return f"its rotary embedding ({rotary.rope_type}) changes with the length"
    if 2 * rotary.inv_freq.numel() != backbone.layers[0].self_attn.head_dim:
        return "its rotary embedding turns a part of each head only"
    if len({parameter.device for parameter in inner.parameters()}) > 1:
        return "it is spread over several devices"
    if type(backbone.embed_tokens) is not nn.Embedding:
        return f"its embedding is a {type(backbone.embed_tokens).__name__}"
    try:
        head_of(model)
    except UserError as error:
        return str(error)
    products = (module for layer in backbone.layers for module in _products(layer))
    return next((why for module in products if (why := _not_dense(module)) is not None), None)


def window(config: Any) -> float:
    """Tokens that the narrowest layer sees."""
    if "full_attention" in (kinds := set(getattr(config, "layer_types", None) or ())) and len(kinds) == 1:
        return torch.inf
    return getattr(config, "sliding_window", None) or torch.inf


def _of_transformers(inner: Any) -> bool:
    return type(inner).__module__.startswith("transformers.models.")


def _products(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [getattr(attention, f"{name}_proj") for name in "qkvo"] + [mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _is_lora(module: Any) -> bool:
    return type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear"


def _not_dense(module: Any) -> str | None:
    """Why this is no product with a weight that can be read, or that LoRA adds to."""
    if _is_lora(module):
        if module.lora_variant or any(module.lora_bias.values()):
            return "its LoRA is of a kind that does more than add to weights"
        module = module.get_base_layer()
    if type(module) is not nn.Linear or not module.weight.is_floating_point():
        return f"a layer of it is a {type(module).__name__}"
    return None


def _dense(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, with what LoRA's active adapters add."""
    if not _is_lora(module):
        return module.weight, module.bias
    base = module.get_base_layer()
    weight: Tensor = base.weight
    if not (module.disable_adapters or module.merged):
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight + module.get_delta_weight(adapter).to(weight.dtype)
    return weight, base.bias


def _joined(modules: Sequence[Any], dtype: torch.dtype) -> Product:
    """Products of one input as one product."""
    dense = [_dense(module) for module in modules]
    weights = [weight.to(dtype) for weight, _ in dense]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    if all(bias is None for _, bias in dense):
        return Product(weight, None)
    biases = [part.new_zeros(len(part)) if bias is None else bias for part, bias in dense]
    return Product(weight, torch.cat(biases).to(dtype))


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN's own layout can be had: its operators are private to PyTorch and are tried once."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight, x = torch.ones(24, 16, dtype=dtype), torch.ones(3, 16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        found = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found, linear(x, weight))


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + ε) · w with the root in float32, as the models have it, in float64 too."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
