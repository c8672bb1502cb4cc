"""Language models and tokenizers by name: a local folder, a name on the hub, or a packaged one; and back to a folder.

Weights that are trained are float32, whatever a file holds them in: an Adam step of 1e-6 is below half a bfloat16's
spacing for every weight above 2.6e-4, and rounds to no step. `compute_dtype` says what autocast may compute in.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from advantage.errors import UserError, nearest
from advantage.language import adapters, fetching, tiny
from advantage.language.quiet import quiet
from advantage.runs import durable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = ("tiny", "tiny-random", fetching.SMOLLM2)
DTYPES = ("auto", "bfloat16", "float32")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
RANDOM_SEED = 0


def fetch(name: str) -> Path:
    """Put a packaged model that is not shipped with the library into the user's cache, and return its folder.

    Raises:
        UserError: there is nothing to fetch under this name, or it cannot be had; one line says what is missing.
    """
    if name in ("tiny", "tiny-random"):
        raise UserError(f"{name} needs no fetching: it is shipped with the package")
    if name != fetching.SMOLLM2:
        raise UserError(f"nothing to fetch under the name {name!r}: {nearest(name, [fetching.SMOLLM2])}")
    return fetching.fetch_smollm2()


def load_model(name: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of that name, in float32 on the CPU, in evaluation mode.

    Args:
        name: a folder, of a model or of adapters, which are taken into their model's weights; a name on the hub
            (nothing is downloaded where HF_HUB_OFFLINE is set); "tiny"; "tiny-random", the same architecture with the
            same random weights every time; or "smollm2-135m", once it is fetched.
        dtype: what will be computed in, checked here and used by `compute_dtype`; the weights are float32 either way.
        trust_remote_code: run Python code that comes with the model. Only ever where the user said so.

    Raises:
        UserError: no such folder or name, no model in it, none that continues text, weights that are pickled, missing
            or torn, or code of its own that was not allowed.
    """
    check_dtype(dtype)
    if name == "tiny-random":
        return _random_tiny()
    from transformers import AutoModelForCausalLM

    source = resolve_name(name)
    if (base := adapters.base_of(source, adapters.MODEL)) is not None:
        on = load_model(base, dtype=dtype, trust_remote_code=trust_remote_code)
        return adapters.merged(on, Path(source))  # type: ignore[no-any-return]
    config = read_config(source, trust_remote_code)
    if any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
        raise UserError(f"{source} is a reward model ({config.architectures[0]}), not one that continues text")
    return load_weights(AutoModelForCausalLM, source, trust_remote_code)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; one without a padding token pads with its end token (masks go by lengths, never by it).

    Raises:
        UserError: no such folder or name, no tokenizer in it, or code of its own that was not allowed.
    """
    from transformers import AutoTokenizer

    source = resolve_name("tiny" if name == "tiny-random" else name)
    if isinstance(source, Path) and not any(
        (source / file).exists() for file in (*TOKENIZERS, "tokenizer_config.json")
    ):
        raise UserError(f"{source} has no tokenizer (none of {', '.join(TOKENIZERS[:4])}); save it beside the model")
    with quiet(bars=isinstance(source, str)), _explained(source, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that writes tokens which its model has no embedding of.

    Raises:
        UserError: it does.
    """
    table: Any = model.get_input_embeddings()
    known = table.weight.shape[0]
    if len(tokenizer) > known:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the model embeds {known}; "
            "take the tokenizer that the model was trained with, or resize its embeddings"
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write an ordinary transformers folder: config, safetensors, tokenizer and template, for anyone's from_pretrained.

    A file that is there already is replaced at once, so that a reader, or a kill, meets no half of one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".tmp-model"
    fetching.remove(draft)
    try:
        # peft would ask the hub whether the vocabulary has grown
        how = {"save_embedding_layers": False} if hasattr(model, "disable_adapter") else {"max_shard_size": "1000GB"}
        with quiet():
            model.save_pretrained(draft, **how)
            tokenizer.save_pretrained(draft)
        for file in sorted(draft.iterdir()):
            durable.sync(file)
            durable.rename(file, folder / file.name)
        durable.sync(folder)
    finally:
        fetching.remove(draft)


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that is none of DTYPES.

    Raises:
        UserError: it is not.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: {nearest(dtype, DTYPES)}")


def compute_dtype(dtype: str = "auto", device: str | torch.device = "cpu") -> torch.dtype | None:
    """What autocast computes in on a device: bfloat16, or None for the float32 of the weights.

    "auto" takes bfloat16 only where the device multiplies it natively: a GPU that says so, a processor with AMX or
    AVX-512 BF16. Emulated on AVX2 it is some thirty times slower than float32.

    Raises:
        UserError: unknown dtype.
    """
    check_dtype(dtype)
    if dtype == "bfloat16" or (dtype == "auto" and _has_native_bfloat16(torch.device(device))):
        return torch.bfloat16
    return None


def device_of(name: str = "auto") -> torch.device:
    """The device of a name: "cpu", "cuda", or "auto", which is cuda where there is one.

    Raises:
        UserError: cuda, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, and this torch sees none; give device=cpu, or install a build with CUDA")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def resolve_name(name: str) -> Path | str:
    """Where a name leads: the folder of a model, or the name itself where only the hub can know it.

    Raises:
        UserError: no such folder, a file, or a packaged model that has not been fetched.
    """
    if name == "tiny":
        return tiny.FOLDER
    if name == fetching.SMOLLM2:
        return fetching.verified_smollm2()
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # unlike Path.is_dir, it answers to a name that no file can have
        return folder
    if os.path.exists(folder):
        raise UserError(f"{name} is a file; name the folder that it lies in")
    if name == "tiny-random" or HUB_NAME.fullmatch(name) is None:
        raise UserError(f"{name}: no such folder")
    return name


def read_config(source: Path | str, trust_remote_code: bool) -> Any:
    """The config of the model at a place, after looking that there are weights that may be read.

    Raises:
        UserError: there is no model, or none of a known kind.
    """
    from transformers import AutoConfig

    if isinstance(source, Path):
        if (base := adapters.base_of(source, adapters.MODEL)) is not None:
            return read_config(resolve_name(base), trust_remote_code)
        _check_folder(source)
    with quiet(bars=isinstance(source, str)), _explained(source, "its config.json"):
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)


def load_weights(auto: Any, source: Path | str, trust_remote_code: bool, **config: Any) -> PreTrainedModel:
    """A model of an `AutoModelFor…` in float32, every weight of it from the file.

    Raises:
        UserError: pickled, torn, of other shapes, or some are missing.
    """
    with quiet(bars=isinstance(source, str)), _explained(source, "its weights"):
        model, found = auto.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **config,
        )
    if missing := sorted(found["missing_keys"]):
        kind = type(model).__name__
        raise UserError(f"{source} is not a whole {kind}: {len(missing)} weights are missing, {missing[0]} first")
    model.eval()
    return model  # type: ignore[no-any-return]


def _random_tiny() -> PreTrainedModel:
    """The architecture of `tiny` with weights drawn from a fixed seed, apart from the process's random numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny.FOLDER, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        model = AutoModelForCausalLM.from_config(config)
    model.eval()
    return model  # type: ignore[no-any-return]


def _check_folder(folder: Path) -> None:
    """Say in one line why a folder is no model, before transformers says it in many."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a model: it has no config.json")
    if any((folder / file).exists() for file in WEIGHTS):
        return
    pickled = sorted(
        file.name for pattern in PICKLED for file in folder.glob(pattern) if file.name != "training_args.bin"
    )
    if pickled:
        way = "AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)"
        raise UserError(
            f"{folder} has pickled weights ({pickled[0]}), and reading a pickle runs code: convert them with {way}"
            " where you trust them"
        )
    raise UserError(f"{folder} has a config.json and no weights: {WEIGHTS[0]} is missing")


@contextlib.contextmanager
def _explained(source: Path | str, part: str) -> Iterator[None]:
    """Errors of transformers, which take paragraphs, as one line with what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_reason(source, part, error)) from error


def _reason(source: Path | str, part: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"{source} brings Python code of its own; read it, and pass --trust-remote-code to run it"
    if "Unrecognized configuration class" in text:
        return f"{source} is of a kind that transformers has no such model for ({text.split(' for this')[0]})"
    if isinstance(error, ImportError):
        return f"{source} needs a package that is not installed: {text[:200]}"
    if isinstance(source, Path):
        return f"{source}: {part} cannot be read ({text[:200] or type(error).__name__})"
    if "safetensors" in text:
        return f"{source} has no safetensors on the hub, and reading a pickle runs code: take a model that has them"
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set and it is not in the cache" if offline else "the hub does not give it"
    return f"{source}: no such folder, and {why} ({part}); packaged models: {', '.join(PACKAGED)}"


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return _flags_have_bfloat16(text)


def _flags_have_bfloat16(cpuinfo: str) -> bool:
    """Whether every core that Linux lists has the instructions.

    >>> _flags_have_bfloat16("flags : fpu avx2"), _flags_have_bfloat16("flags : fpu avx2 avx512_bf16")
    (False, True)
    """
    lists = [line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return bool(lists) and all({"amx_bf16", "avx512_bf16"} & set(flags) for flags in lists)
