"""A small run with all that can get lost: a module, an optimiser, a normaliser, an environment in mid-episode."""

import json
import os
import sqlite3
import sys
import time
from contextlib import closing

import numpy as np
import torch

from advantage.runs.directory import RunDirectory
from advantage.runs.live import LiveRun
from advantage.trajectory import Episode, Rollout

STREAMS, TIME = 2, 3


class Walk:
    """Two random walks that end where they leave [-2, 2]; the generator is their own."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.position = np.zeros(STREAMS)
        self.length = [0] * STREAMS
        self.total = [0.0] * STREAMS

    def step(self):
        self.position += self.generator.normal(size=STREAMS)
        ended = []
        for stream in range(STREAMS):
            self.length[stream] += 1
            self.total[stream] += float(self.position[stream])
            if abs(self.position[stream]) > 2:
                ended.append(Episode(stream, self.length[stream], self.total[stream], "terminated"))
                self.position[stream], self.length[stream], self.total[stream] = 0.0, 0, 0.0
        return ended

    def state(self):
        generator = self.generator.bit_generator.state
        return {"position": self.position.copy(), "length": self.length, "total": self.total, "generator": generator}

    def restore(self, state):
        self.position, self.length, self.total = state["position"], state["length"], state["total"]
        self.generator.bit_generator.state = state["generator"]


class Normalizer:
    def __init__(self):
        self.mean, self.count = torch.zeros(3, dtype=torch.float64), 0

    def update(self, observation):
        self.count += 1
        self.mean += (observation - self.mean) / self.count

    def state(self):
        return {"mean": self.mean, "count": self.count}

    def restore(self, state):
        self.mean, self.count = state["mean"], state["count"]


def make(path, seed=3):
    about = {"algorithm": "walk", "target": "Walk-v0", "command": "advantage train walk", "tables": {}}
    return RunDirectory.create(path, seed=seed, **about)


def train(run, steps, pause=0.0, at=None):
    """`at(update)` is called in the middle of each update."""
    torch.manual_seed(run.seed("network"))
    policy = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(policy.named_parameters(), lr=0.1)
    walk, normalizer = Walk(run.seed("environments")), Normalizer()
    run.keep(policy=policy, optimizer=optimizer, normalizer=normalizer, walk=walk)
    run.held_out(lambda: {"eval/mean_reward": float(policy.weight.detach().sum())})
    run.note("note", "walk", "set up")
    for update in run.updates(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * update.remaining
        noise = run.rng("actions").normal(size=(STREAMS, TIME))
        rewards, episodes = torch.zeros(STREAMS, TIME), []
        with run.phase("collect"):
            for t in range(TIME):
                episodes += walk.step()
                rewards[:, t] = torch.from_numpy(walk.position + noise[:, t])
        if at:
            at(update)
        time.sleep(pause)
        normalizer.update(rewards[0].double())
        policy.weight.grad = policy.weight.detach() - rewards
        policy.bias.grad = rewards[:, 0].clone()
        optimizer.step()
        flags = torch.zeros(STREAMS, TIME, dtype=torch.bool)
        rollout = Rollout({"observation": rewards}, (rewards, flags), ~flags, flags, flags, rewards=rewards)
        third = {} if update.index % 3 else {"odd": 1.0}
        run.log({"train/loss": rewards.mean(), **third}, rollout, episodes)


def run_to(path, steps, resume=False, pause=0.0, at=None, **settings):
    directory = RunDirectory.open(path) if resume else make(path)
    with directory, LiveRun(directory, quiet=True, resume=resume, **settings) as run:
        train(run, steps, pause, at)


def rows(path):
    """All that must be equal between an interrupted run and another."""
    with closing(sqlite3.connect(path / "metrics.sqlite")) as connection:
        ask = lambda query: connection.execute(query).fetchall()  # noqa: E731
        return {
            "ticks": ask("SELECT id, env_steps, tokens FROM ticks"),
            "scalars": ask(
                "SELECT tick, name, value, special FROM scalars JOIN keys ON key = keys.id"
                " WHERE name NOT LIKE 'time/%' OR name = 'time/total_timesteps' ORDER BY tick, name"
            ),
            "keys": ask("SELECT * FROM keys"),
            "episodes": ask("SELECT * FROM episodes"),
            "events": ask("SELECT * FROM events"),
        }


def saved_bytes(path):
    """The files of the last checkpoint, policy/, best/ and rollout/; of state.json what is neither time nor attempt."""
    last = max((path / "checkpoints").glob("step-*"), key=lambda folder: int(folder.name[5:]))
    files = [*last.glob("*.safetensors"), *(path / name for name in SAVED)]
    found = {str(file.relative_to(path)): file.read_bytes() for file in files}
    body = json.loads((last / "state.json").read_text())["body"]
    return found | {"state.json": json.dumps({name: value for name, value in body.items() if name != "about"})}


SAVED = ("policy/policy.safetensors", "best/policy.safetensors", "rollout/rollout.safetensors")


def in_child(function):
    """Run a function in a forked process; its process id. Exit code 130 is the user's stop, 1 any other error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    from pathlib import Path

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    begun = (folder / "config.toml").exists()
    run_to(folder, int(sys.argv[2]), resume=begun, pause=float(sys.argv[3]), checkpoint_every=0.05, eval_every=9)
