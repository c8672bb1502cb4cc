import json
import math
import os
import signal
import time

import pytest
import torch

from advantage import watch
from advantage.errors import NonFinite, RunFailed, UserError
from advantage.runs.directory import RunDirectory
from advantage.runs.live import LiveRun
from advantage.runs.moment import Update
from advantage.runs.reader import RunReader
from advantage.trajectory import Episode, Rollout
from advantage.watch import Finding
from tests.runs.stateful_loop import Walk, exit_code, in_child, make, rows, run_to, saved_bytes, train


def rollout(steps=2):
    mask = torch.ones(1, steps, dtype=torch.bool)
    return Rollout({}, mask, mask, ~mask, ~mask)


def live(path, **settings):
    return LiveRun(make(path), quiet=True, **settings)


def test_a_finished_run(tmp_path):
    run_to(tmp_path / "run", 30, eval_every=12)
    reader = RunReader(tmp_path / "run")
    status = reader.status()
    assert (status["state"], status["update"], status["steps"], status["attempt"]) == ("finished", 5, 30, 1)
    assert [step for step, _ in reader.checkpoints()] == [30]
    table = reader.metrics()
    assert table["env_steps"].tolist() == [6, 12, 18, 24, 30]
    assert [not math.isnan(score) for score in table["eval/mean_reward"]] == [False, True, False, True, True]
    assert not {path.name for path in (tmp_path / "run").iterdir()} & {"metrics.sqlite-wal", "metrics.sqlite-shm"}


def test_running_means_over_the_last_hundred_episodes(tmp_path):
    with live(tmp_path / "run") as run:
        for update in run.updates(8):
            ended = [Episode(0, 10 * update.index, float(n), "terminated") for n in range(60)] if update.index else []
            run.log({}, rollout(), ended)
    table = RunReader(tmp_path / "run").metrics()
    assert math.isnan(table["rollout/ep_rew_mean"][0])
    assert table["rollout/ep_rew_mean"][1] == 29.5
    assert table["rollout/ep_rew_mean"][2] == pytest.approx((sum(range(20, 60)) + sum(range(60))) / 100)
    assert table["rollout/ep_len_mean"][2] == pytest.approx((40 * 10 + 60 * 20) / 100)


def test_streams_repeat_nothing(tmp_path):
    drawn = []
    with live(tmp_path / "run") as run:
        with pytest.raises(RuntimeError, match="belongs to an update"):
            run.rng("actions")
        for _ in run.updates(4):
            drawn.append(run.rng("actions").random())
            run.rng("minibatches")
            with pytest.raises(RuntimeError, match="asked for twice"):
                run.rng("actions")
            run.log({}, rollout(), [])
    assert len(set(drawn)) == 2


def test_remaining_never_falls_below_zero():
    assert [Update(0, steps, 10).remaining for steps in (0, 5, 10, 12)] == [1.0, 0.5, 0.0, 0.0]


def test_phases_and_notes(tmp_path):
    with live(tmp_path / "run") as run:
        run.note("warn", "environments", "start afresh")
        for _ in run.updates(4):
            for _ in range(2):
                with run.phase("collect"):
                    time.sleep(0.01)
            run.note("note", "test", "in an update")
            run.log({}, rollout(), [])
    reader = RunReader(tmp_path / "run")
    assert (reader.metrics()["time/collect"] >= 0.02).all() and (reader.metrics()["time/collect"] < 0.2).all()
    assert [event["update"] for event in reader.events()] == [0, 1, 2]


def test_an_update_without_log_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"run\.log"), live(tmp_path / "run") as run:
        for _ in run.updates(4):
            pass


def test_language_counts_updates_and_tokens(tmp_path):
    with live(tmp_path / "run", clock="updates") as run:
        for _ in run.updates(3):
            run.log({}, rollout(7), [])
    table = RunReader(tmp_path / "run").metrics()
    assert table["tokens"].tolist() == [7, 14, 21] and all(math.isnan(steps) for steps in table["env_steps"])
    assert [step for step, _ in RunReader(tmp_path / "run").checkpoints()] == [3]
    assert "time/total_timesteps" not in table


def test_checkpoints_change_no_bit(tmp_path):
    run_to(tmp_path / "a", 60, checkpoint_every=0.0, eval_every=12)
    run_to(tmp_path / "b", 60, checkpoint_every=1e9, eval_every=12)
    assert saved_bytes(tmp_path / "a") == saved_bytes(tmp_path / "b") and rows(tmp_path / "a") == rows(tmp_path / "b")


def test_the_best_policy_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "inspect", lambda rows: [])
    scores = iter([math.nan, 3.0, 2.0, math.inf])
    weight = torch.nn.Linear(1, 1, bias=False)
    with live(tmp_path / "run", eval_every=2) as run:
        run.keep(policy=weight)
        run.held_out(lambda: {"eval/mean_reward": next(scores)})
        for update in run.updates(8):
            torch.nn.init.constant_(weight.weight, update.index)
            run.log({}, rollout(), [])
    reader = RunReader(tmp_path / "run")
    best, about = reader.policy("best")
    assert best["policy"]["weight"].item() == 1.0 and about["steps"] == 4
    assert reader.policy("last")[0]["policy"]["weight"].item() == 3.0
    assert reader.policy(8)[0]["policy"]["weight"].item() == 3.0
    with pytest.raises(UserError, match="no checkpoint 3, there are 8"):
        reader.policy(3)


def test_a_failed_run_goes_on_and_a_finished_one_is_extended(tmp_path):
    def stop(update):
        if update.index == 4:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        run_to(tmp_path / "a", 60, at=stop, checkpoint_every=0.0, eval_every=12)
    run_to(tmp_path / "a", 60, resume=True, eval_every=12)
    run_to(tmp_path / "b", 60, eval_every=12)
    assert saved_bytes(tmp_path / "a") == saved_bytes(tmp_path / "b") and rows(tmp_path / "a") == rows(tmp_path / "b")
    run_to(tmp_path / "a", 90, resume=True)
    assert RunReader(tmp_path / "a").status()["steps"] == 90
    assert [row["from_update"] for row in RunReader(tmp_path / "a").attempts()] == [0, 4, 10]


@pytest.mark.parametrize("error", [NonFinite("reward is nan at step 7, environment 1"), ZeroDivisionError("in env")])
def test_an_error_leaves_a_true_state(tmp_path, error):
    def crash(update):
        if update.index == 3:
            raise error

    with pytest.raises(type(error)):
        run_to(tmp_path / "run", 60, at=crash, checkpoint_every=0.0)
    reader = RunReader(tmp_path / "run")
    assert reader.status()["state"] == "failed" and str(error) in reader.status()["error"]
    last = reader.events()[-1]
    assert (last["update"], last["level"]) == (4, "stop") and str(error) in last["text"]
    assert last["tripwire"] == ("non_finite" if isinstance(error, NonFinite) else "error")
    assert reader.checkpoints()[-1][0] == 18 and len(reader.metrics()["update"]) == 3
    assert not (tmp_path / "run" / "metrics.sqlite-wal").exists()


def test_a_parameter_that_is_no_number_gets_no_checkpoint(tmp_path):
    policy = torch.nn.Linear(2, 1)
    with (
        pytest.raises(NonFinite, match="parameter weight of policy"),
        make(tmp_path / "run") as directory,
        LiveRun(directory, quiet=True, checkpoint_every=0.0) as run,
    ):
        run.keep(policy=policy)
        for update in run.updates(20):
            if update.index == 2:
                policy.weight.data[0, 1] = math.inf
            run.log({}, rollout(), [])
    reader = RunReader(tmp_path / "run")
    assert reader.checkpoints()[-1][0] == 4 and reader.status()["state"] == "failed"


def test_a_users_mistake_in_the_set_up_leaves_nothing(tmp_path):
    with pytest.raises(UserError), make(tmp_path / "run") as directory, LiveRun(directory, quiet=True):
        raise UserError("unsupported space")
    assert list(tmp_path.iterdir()) == []


WRONG = [("checkpoint_every", -1.0), ("checkpoint_every", math.nan), ("keep_checkpoints", 0), ("eval_every", 0)]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_settings_out_of_range(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name} = {value}"):
        live(tmp_path / "run", **{name: value})


def test_a_finding_is_told_when_it_begins(tmp_path, monkeypatch):
    sees = {2, 3, 4, 6}
    monkeypatch.setattr(watch, "inspect", lambda rows: [Finding("kl", "warn", "high")] if rows[-1]["n"] in sees else [])
    with live(tmp_path / "run") as run:
        for update in run.updates(14):
            run.log({"n": update.index + 1}, rollout(), [])
    assert [event["update"] for event in RunReader(tmp_path / "run").events()] == [2, 6]


def test_findings_and_their_window_survive_a_resume(tmp_path, monkeypatch):
    seen = {}

    def inspect(rows):
        window = [{key: repr(value) for key, value in row.items() if "time/" not in key} for row in rows]
        seen[len(seen)] = window
        return [Finding("kl", "warn", "high")] if len(rows) >= 3 else []

    monkeypatch.setattr(watch, "inspect", inspect)
    run_to(tmp_path / "whole", 48, eval_every=12, checkpoint_every=0.0)
    whole, seen = seen, {}

    def stop(update):
        if update.index == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_to(tmp_path / "cut", 48, at=stop, eval_every=12, checkpoint_every=0.0)
    run_to(tmp_path / "cut", 48, resume=True, eval_every=12)
    assert seen == whole and rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_tripwire_of_level_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "inspect", lambda rows: [Finding("loss", "stop", "nan")] if len(rows) == 4 else [])
    with pytest.raises(RunFailed, match="loss: nan; stopped at step 24, the last good checkpoint is step-18"):
        run_to(tmp_path / "run", 60, checkpoint_every=0.0)
    reader = RunReader(tmp_path / "run")
    stops = [event for event in reader.events() if event["level"] == "stop"]
    assert stops == [{"update": 4, "level": "stop", "tripwire": "loss", "text": "nan"}]
    assert reader.checkpoints()[-1][0] == 18 and len(reader.metrics()["update"]) == 4


def test_torn_checkpoint_is_told_and_the_one_before_it_used(tmp_path, capsys):
    run_to(tmp_path / "run", 30, checkpoint_every=0.0)
    file = tmp_path / "run" / "checkpoints" / "step-30" / "walk.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with RunDirectory.open(tmp_path / "run") as directory, LiveRun(directory, resume=True) as run:
        assert run.steps == 24
        train(run, 60)
    said = capsys.readouterr().err
    assert "step-30/walk.safetensors" in said and "used step-24 instead" in said and "goes on from step-24" in said
    run_to(tmp_path / "whole", 60)
    assert rows(tmp_path / "run")["ticks"] == rows(tmp_path / "whole")["ticks"]
    assert "step-30/walk.safetensors" in RunReader(tmp_path / "run").events()[-1]["text"]


def test_another_machine_is_told(tmp_path, capsys):
    run_to(tmp_path / "run", 30)
    state = tmp_path / "run" / "checkpoints" / "step-30" / "state.json"
    kept = json.loads(state.read_text())
    assert kept["body"]["machine"]["threads"] == 1 and kept["body"]["machine"]["processor"]
    from advantage.runs import machine

    old = machine.describe()
    new = {**old, "threads": 8, "versions": {**old["versions"], "torch": "9"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "describe", lambda: new)
        with RunDirectory.open(tmp_path / "run") as directory, LiveRun(directory, resume=True) as run:
            train(run, 36)
    line = next(line for line in capsys.readouterr().err.splitlines() if "bits may differ" in line)
    assert f"torch {old['versions']['torch']} → 9" in line and "threads 1 → 8" in line


def test_a_kept_thing_that_the_checkpoint_lacks(tmp_path):
    run_to(tmp_path / "run", 12)
    directory = RunDirectory.open(tmp_path / "run")
    with pytest.raises(RunFailed, match="holds no buffer"), LiveRun(directory, quiet=True, resume=True) as run:
        run.keep(buffer=Walk(1))


def test_lost_rows_are_told(tmp_path, capsys):
    run_to(tmp_path / "run", 12)
    (tmp_path / "run" / "metrics.sqlite").unlink()
    with RunDirectory.open(tmp_path / "run") as directory, LiveRun(directory, resume=True) as run:
        train(run, 24)
    assert "holds 0 of the 2 updates before step-12" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_keeps_the_update(tmp_path, number):
    def ask(update):
        if update.index == 3:
            os.kill(os.getpid(), number)

    assert exit_code(in_child(lambda: run_to(tmp_path / "run", 60, at=ask, checkpoint_every=1e9, eval_every=12))) == 130
    reader = RunReader(tmp_path / "run")
    assert reader.status()["state"] == "stopped" and [step for step, _ in reader.checkpoints()] == [24]
    run_to(tmp_path / "run", 60, resume=True, eval_every=12)
    run_to(tmp_path / "whole", 60, eval_every=12)
    assert saved_bytes(tmp_path / "run") == saved_bytes(tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background of a shell
    with pytest.raises(KeyboardInterrupt, match=f"advantage resume {tmp_path}/run"):
        run_to(tmp_path / "run", 60, at=lambda update: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_stops_at_once(tmp_path):
    def ask(update):
        if update.index == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    assert exit_code(in_child(lambda: run_to(tmp_path / "run", 60, at=ask, checkpoint_every=0.0))) == 130
    reader = RunReader(tmp_path / "run")
    assert reader.status()["state"] == "stopped" and reader.checkpoints()[-1][0] == 18


def test_ctrl_c_in_the_set_up_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt), live(tmp_path / "run"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    assert RunReader(tmp_path / "run").status()["state"] == "stopped"
