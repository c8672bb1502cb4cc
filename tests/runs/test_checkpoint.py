import json
import os

import pytest
import torch

from advantage.errors import RunFailed, UserError
from advantage.runs import checkpoint, durable


def write(folder, step, keep=2):
    states = {"policy": {"w": torch.full((50,), float(step)), "n": step}, "counter": {"n": float("nan")}}
    machine = {"threads": 1, "versions": {}}
    return checkpoint.commit(folder, step, states, {"update": step}, machine, {"attempt": 1}, keep)


def steps(folder):
    return [step for step, _ in checkpoint.found(folder)]


def test_a_checkpoint_comes_back(tmp_path):
    write(tmp_path / "c", 8)
    found, torn = checkpoint.latest(tmp_path / "c")
    assert torn == [] and found.step == 8 and found.body["run"] == {"update": 8}
    assert torch.equal(found.state("policy")["w"], torch.full((50,), 8.0)) and found.state("policy")["n"] == 8
    assert found.state("counter")["n"] != found.state("counter")["n"]
    with pytest.raises(RunFailed, match="holds no optimizer, only policy, counter"):
        found.state("optimizer")


def test_the_last_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10, 100):
        write(tmp_path / "c", step)
    assert steps(tmp_path / "c") == [10, 100]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"step-10", "step-100"}


def test_none_yet(tmp_path):
    assert checkpoint.latest(tmp_path / "c") == (None, [])


FILES = ("state.json", "policy.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_torn_and_noisy_files_are_found_out(tmp_path, name, damage):
    write(tmp_path / "c", 1)
    file = write(tmp_path / "c", 2) / name
    content = file.read_bytes()
    places = range(0, len(content), max(1, len(content) // 60)) if damage == "flip" else [0]
    for place in places:
        if damage == "flip":
            if content[place : place + 1].isspace():
                continue  # the layout of state.json carries nothing
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        elif damage == "gone":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
        found, torn = checkpoint.latest(tmp_path / "c")
        assert found.step == 1 and len(torn) == 1 and f"step-2/{name}" in torn[0], (place, content[place])


def test_all_torn_is_an_error_not_a_new_start(tmp_path):
    file = write(tmp_path / "c", 2) / "policy.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint is whole.*step-2/policy.safetensors"):
        checkpoint.latest(tmp_path / "c")


def test_newer_format_is_refused_not_skipped(tmp_path):
    write(tmp_path / "c", 1)
    file = write(tmp_path / "c", 2) / "state.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "body": {**kept["body"], "format": 2}}))
    with pytest.raises(UserError, match="upgrade advantage"):
        checkpoint.latest(tmp_path / "c")


def test_going_on_from_before_a_torn_one(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path / "c", step)
    (tmp_path / "c" / "step-3" / "state.json").write_text("{")
    write(tmp_path / "c", 3)
    assert checkpoint.latest(tmp_path / "c")[0].step == 3 and steps(tmp_path / "c") == [2, 3]
    (tmp_path / "c" / "step-3" / "state.json").write_text("{")
    (tmp_path / "c" / "step-3").rename(tmp_path / "c" / "step-9")
    write(tmp_path / "c", 4)
    assert steps(tmp_path / "c") == [2, 4], "one past the present counts for none of the last two"


def test_everything_is_synced_before_it_is_named(tmp_path, monkeypatch):
    log = []

    def fsync(descriptor):
        log.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        os.fsync(descriptor)

    def rename(source, target):
        log.append((str(source), str(target)))
        os.replace(source, target)

    monkeypatch.setattr(durable, "fsync", fsync)
    monkeypatch.setattr(durable, "rename", rename)
    folder = tmp_path / "c"
    write(folder, 5)
    draft = str(folder / ".tmp-step-5")
    inside = [f"{draft}/policy.safetensors", f"{draft}/state.json", draft]
    assert log == [str(tmp_path), *inside, (draft, str(folder / "step-5")), str(folder)]


def test_a_failed_write_leaves_the_last_good_one_and_no_draft(tmp_path, monkeypatch):
    write(tmp_path / "c", 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "c", 2)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"step-1"}
    assert checkpoint.latest(tmp_path / "c")[0].step == 1
