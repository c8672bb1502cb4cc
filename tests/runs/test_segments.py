"""What only grows is written once, comes back to the bit, and dies at no write."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch

from advantage.errors import UserError
from advantage.runs import checkpoint, durable, segments
from advantage.runs.directory import RunDirectory
from advantage.runs.live import LiveRun
from advantage.trajectory import Rollout
from tests.runs.stateful_loop import exit_code, in_child, make, rows

CAPACITY = 10


class Ring:
    """The last numbers that it was given, each with its square as a picture of two."""

    def __init__(self):
        self.added, self.numbers = 0, np.zeros((CAPACITY, 2), np.float32)
        self.asked = []

    def add(self, number):
        self.numbers[self.added % CAPACITY] = number, number**2
        self.added += 1

    @property
    def span(self):
        return max(0, self.added - CAPACITY), self.added

    def rows_between(self, first, end):
        assert self.span[0] <= first < end <= self.span[1]
        self.asked.append((first, end))
        return {"numbers": self.numbers[np.arange(first, end) % CAPACITY]}

    def take_back(self, first, given):
        for offset, row in enumerate(given["numbers"]):
            if first + offset >= self.span[0]:
                self.numbers[(first + offset) % CAPACITY] = row

    def state(self):
        return {"added": self.added}

    def restore(self, state):
        self.added = state["added"]


def train(run, steps, at=None):
    """Four numbers an update, drawn; the policy is a running sum of what the ring holds, so that it depends on all."""
    policy, ring = torch.nn.Linear(2, 1), Ring()
    torch.nn.init.zeros_(policy.weight)
    torch.nn.init.zeros_(policy.bias)
    run.keep(policy=policy, ring=ring)
    run.ring = ring
    for update in run.updates(steps):
        if at:
            at(update)
        for number in run.rng("numbers").normal(size=4):
            ring.add(number)
        policy.weight.data += torch.from_numpy(ring.numbers.sum(0))
        flags = torch.zeros(1, 4, dtype=torch.bool)
        run.log({}, Rollout({}, flags, ~flags, flags, flags))


def run_to(path, steps, resume=False, at=None, **settings):
    directory = RunDirectory.open(path) if resume else make(path)
    with directory, LiveRun(directory, quiet=True, resume=resume, **{"checkpoint_every": 0.0} | settings) as run:
        train(run, steps, at)
    return run.ring


def files(path):
    return sorted((file.name for file in (path / "checkpoints" / "segments").iterdir()), key=segments.span_of)


def test_a_checkpoint_writes_only_what_is_new(tmp_path):
    ring = run_to(tmp_path / "run", 4 * 7, keep_checkpoints=1)
    assert ring.asked == [(first, first + 4) for first in range(0, 28, 4)]
    assert files(tmp_path / "run") == [f"ring-{first}-{first + 4}.safetensors" for first in (16, 20, 24)]
    seldom = run_to(tmp_path / "seldom", 4 * 7, checkpoint_every=1e9)
    assert seldom.asked == [(18, 28)]  # what the ring has let go is in no checkpoint


def test_pieces_stay_as_long_as_a_kept_checkpoint_names_them(tmp_path):
    run_to(tmp_path / "run", 4 * 7, keep_checkpoints=3)
    assert [step for step, _ in checkpoint.found(tmp_path / "run" / "checkpoints")] == [20, 24, 28]
    assert segments.span_of(files(tmp_path / "run")[0]) == (8, 12)  # of step 20: numbers 10 … 19
    for _, folder in checkpoint.found(tmp_path / "run" / "checkpoints"):
        assert len(checkpoint.load(folder).pieces("ring")) == 3


def test_it_comes_back_to_the_bit(tmp_path):
    whole = run_to(tmp_path / "whole", 4 * 9)
    run_to(tmp_path / "run", 4 * 4)
    again = run_to(tmp_path / "run", 4 * 9, resume=True)
    assert np.array_equal(whole.numbers, again.numbers) and again.span == whole.span
    assert again.asked[0] == (16, 20)  # the pieces of before are not written anew
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "whole")


def policy_bytes(path):
    return (path / "policy" / "policy.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_torn_piece_makes_its_checkpoints_torn(tmp_path, damage):
    run_to(tmp_path / "whole", 4 * 6)
    run_to(tmp_path / "run", 4 * 4)
    newest = tmp_path / "run" / "checkpoints" / "segments" / files(tmp_path / "run")[-1]
    content = newest.read_bytes()
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    found, torn = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found.step == 12 and newest.name in torn[0]
    run_to(tmp_path / "run", 4 * 6, resume=True)
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "whole")
    for file in (tmp_path / "run" / "checkpoints" / "segments").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint is whole"):
        run_to(tmp_path / "run", 4 * 8, resume=True)


def test_no_piece_goes_while_a_checkpoint_cannot_say_what_it_needs(tmp_path):
    run_to(tmp_path / "run", 4 * 6, keep_checkpoints=2)
    before = files(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-20" / "state.json").write_text("{")
    checkpoint._drop_segments(tmp_path / "run" / "checkpoints")
    assert files(tmp_path / "run") == before


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    right, calls = durable.replace, []

    def full(path, write):
        calls.append(path.name)
        if path.name == "ring-8-12.safetensors":
            raise OSError(28, "No space left on device")
        right(path, write)

    monkeypatch.setattr(durable, "replace", full)
    with pytest.raises(RuntimeError, match=r"cannot write checkpoint step-12: No space left.*step-8"):
        run_to(tmp_path / "run", 4 * 5)
    monkeypatch.undo()
    run_to(tmp_path / "run", 4 * 5, resume=True)
    run_to(tmp_path / "whole", 4 * 5)
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "whole")


def test_a_run_of_before_there_were_pieces_goes_on(tmp_path):
    checkpoint.commit(tmp_path / "c", 1, {"policy": {"n": 1}}, {}, {}, {}, 2)
    found, _ = checkpoint.latest(tmp_path / "c")
    assert found.pieces("policy") == {} and not (tmp_path / "c" / "segments").exists()


def test_death_at_every_fsync_and_rename(tmp_path):
    """Every piece, every checkpoint that names it, and every removal of an old one."""
    settings = {"keep_checkpoints": 1}
    whole = run_to(tmp_path / "whole", 16, **settings)

    def dying(path, number):
        calls = []

        def wrap(function):
            def call(*arguments):
                calls.append(function.__name__)
                if len(calls) == number:
                    if number % 2:
                        function(*arguments)
                    os.kill(os.getpid(), signal.SIGKILL)
                function(*arguments)

            return call

        directory = make(path)
        durable.fsync, durable.rename = wrap(durable.fsync), wrap(durable.rename)
        with directory, LiveRun(directory, quiet=True, checkpoint_every=0.0, **settings) as run:
            train(run, 16)

    deaths = 0
    while True:
        path = tmp_path / str(deaths)
        code = exit_code(in_child(lambda: dying(path, deaths + 1)))  # noqa: B023
        if code == 0:
            break
        assert code == -signal.SIGKILL
        ring = run_to(path, 16, resume=True, **settings)
        assert np.array_equal(ring.numbers, whole.numbers)
        assert rows(path) == rows(tmp_path / "whole")
        assert policy_bytes(path) == policy_bytes(tmp_path / "whole")
        assert not [entry for entry in path.rglob("*") if entry.name.startswith(".tmp-")]
        there = [checkpoint.load(folder) for _, folder in checkpoint.found(path / "checkpoints")]
        assert set(files(path)) == {file.partition("/")[2] for each in there for file in each.pieces("ring")}
        shutil.rmtree(path)
        deaths += 1
    assert deaths > 50
