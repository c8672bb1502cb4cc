"""Trees, rollouts and batches: what is cut, what is dropped, what is counted, and which shapes are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from advantage.trajectory import Batch, Evaluation, Rollout, tree_leaves, tree_map

NAN = float("nan")
COLUMNS = ("advantages", "returns", "values_old", "logp_old", "logp_ref", "logp_sampler")


def bits(text: str) -> torch.Tensor:
    """Rows of 0 and 1, as booleans: "110 010"."""
    return torch.tensor([[letter == "1" for letter in row] for row in text.split()])


def rollout(mask: torch.Tensor, **changes: Any) -> Rollout:
    """Every scalar says where it stands: stream · 10 + time."""
    streams, time = mask.shape
    here = 10.0 * torch.arange(streams)[:, None] + torch.arange(time)
    nothing = torch.zeros_like(mask)
    context = {"observation": (torch.stack([here, -here], -1), here.long())}
    columns: dict[str, Any] = {"mask": mask, "terminated": nothing, "truncated": nothing, "rewards": here}
    return Rollout(context=context, actions=here.long(), **(columns | changes))


def ragged() -> Batch:
    """Two streams of three steps; under the mask stands what must never be met."""
    mask = bits("110 011")
    spoiled = torch.where(mask, torch.arange(6.0).reshape(2, 3), NAN)
    whole = rollout(mask, logp_old=spoiled, values=spoiled, logp_ref=spoiled, logp_sampler=spoiled)
    return Batch.of(whole.replace(group=torch.tensor([7, 3])), spoiled, spoiled).replace(unit=torch.tensor([1, 0]))


def test_trees() -> None:
    tree = {"b": (torch.tensor(1), torch.tensor(2)), "a": torch.tensor(3)}
    assert [int(leaf) for leaf in tree_leaves(tree)] == [1, 2, 3]
    doubled = tree_map(lambda one, other: one + other, tree, tree)
    assert [int(leaf) for leaf in tree_leaves(doubled)] == [2, 4, 6]
    assert list(doubled) == ["b", "a"] and isinstance(doubled["b"], tuple)
    assert next(iter(tree_leaves(torch.ones(2)))).tolist() == [1, 1]
    with pytest.raises(ValueError, match="zip"):
        tree_map(lambda one, other: one, (1, 2), (1,))


def test_credit_stops_at_ends_on_rows_that_are_none_and_before_them() -> None:
    found = rollout(bits("1110111"), terminated=bits("0100000"), truncated=bits("0000010")).cut
    assert torch.equal(found, bits("0111010"))
    assert not rollout(bits("111")).cut.any()


def test_steps_are_the_decisions() -> None:
    assert rollout(bits("110 011")).steps == 4


def test_a_batch_takes_the_columns_over_and_fills_under_the_mask() -> None:
    batch = ragged()
    for name in COLUMNS:
        assert torch.equal(getattr(batch, name), torch.tensor([[0.0, 1.0, 0.0], [0.0, 4.0, 5.0]])), name
    assert (batch.tokens, batch.sequences, len(batch)) == (4, 2, 2)
    assert batch.group is not None and batch.group.tolist() == [7, 3]


def test_a_row_without_a_decision_is_no_sequence() -> None:
    batch = Batch.of(rollout(bits("110 000 001")))
    assert (batch.tokens, batch.sequences, len(batch)) == (3, 2, 3)
    with pytest.raises(ValueError, match="no true entry"):
        Batch.of(rollout(bits("000 000")))


def test_given_data_needs_no_rollout() -> None:
    tokens = torch.arange(6).reshape(2, 3)
    batch = Batch.of_rows({"tokens": tokens}, tokens, bits("110 100"), unit=torch.tensor([0, 0]))
    assert (batch.tokens, batch.sequences, batch.logp_old) == (3, 2, None)
    assert batch.unit is not None and batch.unit.tolist() == [0, 0]


def test_single_steps_are_the_decisions_stream_after_stream() -> None:
    rows = ragged().single_steps()
    assert rows.actions.tolist() == [[0], [1], [11], [12]]
    assert rows.context["observation"][0].tolist() == [[[0, 0]], [[1, -1]], [[11, -11]], [[12, -12]]]
    assert rows.context["observation"][1].tolist() == rows.actions.tolist()
    assert all(getattr(rows, name).tolist() == [[0.0], [1.0], [4.0], [5.0]] for name in COLUMNS)
    assert rows.group is not None and rows.group.tolist() == [7, 7, 3, 3]
    assert rows.unit is not None and rows.unit.tolist() == [1, 1, 0, 0]
    assert (rows.mask, rows.tokens, rows.sequences, len(rows)) == (None, 4, 4, 4)


@pytest.mark.parametrize("mask", [bits("111 111"), None], ids=["all true", "none"])
def test_single_steps_of_whole_rows(mask: torch.Tensor | None) -> None:
    rows = ragged().replace(mask=mask, tokens=6).single_steps()
    assert rows.actions.tolist() == [[0], [1], [2], [10], [11], [12]]
    assert rows.group is not None and rows.group.tolist() == [7, 7, 7, 3, 3, 3]
    assert (rows.mask, rows.tokens, rows.sequences) == (None, 6, 6)


def test_parts_inherit_the_counts_and_a_minibatch_counts_anew() -> None:
    part = ragged().rows(torch.tensor([1]))
    assert part.actions.tolist() == [[10, 11, 12]]
    assert part.group is not None and part.group.tolist() == [3]
    assert (part.tokens, part.sequences) == (4, 2)
    assert (part.counted().tokens, part.counted().sequences) == (2, 1)
    steps = ragged().single_steps().rows(slice(1, 4))
    assert (steps.tokens, steps.counted().tokens, steps.counted().sequences) == (4, 3, 3)


@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=5).filter(lambda rows: any(map(any, rows))))
def test_dropping_keeps_exactly_the_true_entries(rows: list[tuple[bool, ...]]) -> None:
    mask = torch.tensor(rows)
    data = rollout(mask)
    batch = Batch.of(data, advantages=data.rewards)
    wanted = [10 * i + t for i, row in enumerate(rows) for t, true in enumerate(row) if true]
    single = batch.single_steps()
    assert single.actions.squeeze(-1).tolist() == wanted
    assert single.advantages is not None and single.advantages.squeeze(-1).tolist() == wanted
    assert single.tokens == batch.tokens == data.steps == len(wanted)


def test_what_was_said_is_kept_without_its_graph() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    said = Evaluation(logp=weight * 2, values=weight * 3, distribution=object()).detach()
    assert said.logp is not None and said.values is not None
    assert not said.logp.requires_grad and not said.values.requires_grad
    assert (said.entropy, said.distribution) == (None, None)
    assert said.logp.tolist() == [[2.0] * 3] * 2 and said.values.tolist() == [[3.0] * 3] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"rewards": torch.zeros(3, 2)},
        {"rewards": torch.zeros(2, 3, dtype=torch.int64)},
        {"terminated": torch.zeros(2, 3)},
        {"group": torch.tensor([1.0, 2.0])},
        {"group": torch.tensor([1, 2, 3])},
        {"logp_old": torch.zeros(2, 3, 1)},
    ],
    ids=["transposed", "integers", "reals for flags", "real group", "a group too many", "an axis too many"],
)
def test_shapes_that_would_broadcast_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeCheckError):
        rollout(bits("111 111"), **wrong)


def test_types_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout(bits("1")).mask = bits("0")  # type: ignore[misc]
