"""Low-rank adapters (Hu et al. 2021), which are trained in the place of all weights: put on a model, and taken into it.

    W x + (α/r) B A x,   A (r, in), B (out, r), α = 2r; B begins at 0

A folder of peft holds the adapters alone, and the name of the model that they stand on.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from advantage.errors import UserError
from advantage.language.quiet import quiet

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL, SCORE = "CAUSAL_LM", "SEQ_CLS"  # peft's words for what continues text, and for what scores it


def with_adapters(model: Any, rank: int, seed: int, head: str | None = None) -> Any:
    """The model with adapters on its linear layers, which alone are trained.

    Args:
        model: of transformers.
        rank: r ≥ 1.
        seed: of the fresh matrices A.
        head: name of a layer that is trained whole and saved with them: the score of a reward model.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora_rank needs the package peft; pip install 'advantage[language]'") from None
    kind: dict[str, Any] = {"task_type": MODEL} if head is None else {"task_type": SCORE, "modules_to_save": [head]}
    with torch.random.fork_rng(devices=[]), _of_peft():
        torch.default_generator.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", **kind)
        return get_peft_model(model, config)


def base_of(source: Path | str, kind: str) -> str | None:
    """The model that the adapters of a folder stand on; None where it holds a whole model, or is no folder.

    Args:
        source: a folder, or a name on the hub.
        kind: that the adapters have to be of, MODEL or SCORE.

    Raises:
        UserError: adapters of another kind, without weights, or that name no model.
    """
    if isinstance(source, str) or (source / "config.json").exists() or not (source / CONFIG).exists():
        return None
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        base, found = config.get("base_model_name_or_path"), config.get("task_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{source}/{CONFIG} cannot be read: {error}") from error
    if not (source / WEIGHTS).exists():
        raise UserError(f"{source} has an {CONFIG} and no {WEIGHTS}; pickled ones are not read")
    if not base:
        raise UserError(f"{source} holds adapters alone, and its {CONFIG} names no model that they stand on")
    if found != kind:
        words = {MODEL: "no model that continues text", SCORE: "no reward model"}[kind]
        raise UserError(f"{source} is {words}: its adapters are of the kind {found}")
    return str(base)


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapters of a folder, and the head beside them, taken into its weights.

    Raises:
        UserError: they do not fit the model, or peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{folder} holds adapters, which need the package peft") from None
    try:
        with quiet(), _of_peft():
            whole = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{folder}: its adapters cannot be put on {model.name_or_path} ({text[:200]})") from error
    whole.name_or_path = str(folder)  # adapters that are put on it name it as their base
    return whole.eval()


@contextlib.contextmanager
def _of_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft, about its own future
        yield
