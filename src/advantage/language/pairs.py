"""Preference pairs as rows, two a pair (chosen, then rejected), and what a reference says of them, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advantage.language.policy import LanguagePolicy
from advantage.language.rows import batch_of_rows, ragged
from advantage.language.template import render_pair
from advantage.runs import durable, tensors
from advantage.trajectory import Batch
from advantage.update import scored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 64  # pairs that are scored between two looks at the file


def batch_of_pairs(examples: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """2·n rows: those of a pair stand together, the chosen one first, and are one unit."""
    rows = [row for example in examples for row in render_pair(tokenizer, example)]
    unit = torch.arange(len(examples)).repeat_interleave(2)
    return batch_of_rows([row.ids for row in rows], [row.mask for row in rows], unit=unit)


def of_pairs(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of rows (2·n,) as those of the chosen and of the rejected (n,)."""
    chosen, rejected = numbers.view(-1, 2).unbind(-1)
    return chosen, rejected


class Reference:
    """Token log-probabilities of a frozen policy on the pairs that a run will see.

    They are computed once, from the policy as it is when this is made, and kept in a file of the run under the content
    of the data and the name of the model: a resumed run reads them, and no second model stays in memory.

    Args:
        policy: as it stands before anything is trained.
        examples: the pairs, by index.
        indices: those that are wanted.
        tokenizer: of the model.
        path: of the file.
        digest: of the data and of what else the numbers depend on.
        now: settings that say how much fits in memory at once.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        examples: Sequence[dict[str, Any]],
        indices: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
        path: Path,
        digest: str,
        now: Any,
    ) -> None:
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self._read(path, digest)
        missing = [index for index in indices if index not in self._rows]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            batch = batch_of_pairs([examples[index] for index in part], tokenizer)
            assert batch.mask is not None
            logp = scored(policy, batch, now).logp
            of_rows = [values[mask] for values, mask in zip(logp, batch.mask, strict=True)]
            self._rows |= {index: (of_rows[2 * i], of_rows[2 * i + 1]) for i, index in enumerate(part)}
        if missing:
            self._write(path, digest)

    def of(self, indices: Sequence[int], width: int) -> Tensor:
        """(2·n, width) log-probabilities of the pairs of these indices, 0 behind each row's end."""
        rows = [row.tolist() for index in indices for row in self._rows[index]]
        return ragged(rows, width)

    def _read(self, path: Path, digest: str) -> None:
        if not path.exists():
            return
        arrays, about = tensors.read(path)
        if about["digest"] != digest:
            return
        values = torch.as_tensor(arrays["logp"]).split(torch.as_tensor(arrays["lengths"]).flatten().tolist())
        for i, index in enumerate(torch.as_tensor(arrays["indices"]).tolist()):
            self._rows[index] = (values[2 * i], values[2 * i + 1])

    def _write(self, path: Path, digest: str) -> None:
        indices = sorted(self._rows)
        rows = [row for index in indices for row in self._rows[index]]
        arrays = {
            "indices": torch.tensor(indices),
            "lengths": torch.tensor([len(row) for row in rows]),
            "logp": torch.cat(rows),
        }
        durable.replace(path, lambda draft: tensors.write(draft, arrays, {"digest": digest}))


def digest_of(*parts: str) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
