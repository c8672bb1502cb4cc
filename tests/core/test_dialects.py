"""Dialects: ours is what the formulas do unasked, and every setting that names one finds it."""

from __future__ import annotations

import dataclasses
import inspect

from advantage.control.settings import Control
from advantage.core import dialects, standardize
from advantage.core.dialects import DIALECTS, Dialect


def test_every_choice_of_numerics_is_a_dialect() -> None:
    numerics = next(field for field in dataclasses.fields(Control) if field.name == "numerics")
    assert set(numerics.metadata["choices"]) == set(DIALECTS)
    assert DIALECTS[numerics.default] == Dialect()


def test_ours_is_the_formulas() -> None:
    assert inspect.signature(standardize).parameters["ddof"].default == DIALECTS["advantage"].advantage_ddof


def test_the_table_has_a_row_for_every_constant() -> None:
    table = [line.split("`")[1] for line in (dialects.__doc__ or "").splitlines() if line.startswith("| `")]
    assert table == [field.name for field in dataclasses.fields(Dialect)]
