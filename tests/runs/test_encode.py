import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from advantage.runs.encode import dumps, embed, loads


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.1, -0.0, 1e308, 2**130])
def test_numbers_come_back(value):
    text = dumps({"x": [value]})
    json.loads(text, parse_constant=pytest.fail)  # every parser reads it
    back = loads(text)["x"][0]
    assert math.isnan(back) if value != value else (back == value and math.copysign(1, back) == math.copysign(1, value))


def test_arrays_tensors_and_paths():
    value = {"a": np.float32(0.5), "b": np.array([1, 2]), "c": torch.tensor([float("nan")]), "d": Path("x"), "e": (1,)}
    assert dumps(value) == '{"a": 0.5, "b": [1, 2], "c": [{"special": "nan"}], "d": "x", "e": [1]}'


@pytest.mark.parametrize("value", [{1: 2}, object(), {"a": {3}}])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(TypeError):
        dumps(value)


def test_embedded_text_cannot_leave_its_element():
    hostile = {"name": "</script><!-- <b>"}
    assert "<" not in embed(hostile) and json.loads(embed(hostile)) == hostile
