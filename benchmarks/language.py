"""Seconds a step, tokens a second and peak memory on SmolLM2-135M beside TRL, the same work, in one run.

    advantage models fetch smollm2-135m
    python -m benchmarks.language --pairs 3

Ours and theirs take turns, each in a process of its own on all cores, in the processor's best dtype (bfloat16 under
autocast where it is native, over float32 weights), without gradient checkpointing, with the allocator told to keep its
blocks in both. A step's time is the median behind the first step; quoted are the medians of the pairs and the median of
their ratios. The end token is exchanged for one that is never said, so that every completion is as long as the next.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m"
NEVER_SAID = "<reponame>"


@dataclass(frozen=True)
class Case:
    """One kind of work: `prompt` and `answer` in tokens, `rows` examples (or prompts) a step, n answers of a prompt."""

    what: str
    algorithm: str
    rows: int
    prompt: int
    answer: int
    n: int = 1
    steps: int = 4


CASES = {
    "sampling": Case("sampling, 4 prompts × 8, 48 + 48 tokens", "sampling", 4, 48, 48, 8),
    "sampling-apart": Case("sampling, 32 prompts, 48 + 48 tokens", "sampling", 32, 48, 48),
    "grpo": Case("GRPO, 4 × 8, 48 + 48 tokens", "grpo", 4, 48, 48, 8),
    "grpo-long": Case("GRPO, 4 × 8, 256 + 48 tokens", "grpo", 4, 256, 48, 8, steps=2),
    "dpo": Case("DPO, 8 pairs of 128 + 128 tokens", "dpo", 8, 128, 128, steps=3),
    "sft": Case("SFT, 8 × 512 tokens", "sft", 8, 64, 448, steps=3),
    "reward_model": Case("reward model, 8 pairs of 64 + 64 tokens", "reward_model", 8, 64, 64, steps=3),
}


def model_folder(into: Path) -> Path:
    """The model with another end token."""
    from advantage.language.models import load_tokenizer, resolve_name

    folder = into / "model"
    shutil.copytree(resolve_name(MODEL), folder)
    tokenizer = load_tokenizer(MODEL)
    never = tokenizer.convert_tokens_to_ids(NEVER_SAID)
    tokenizer.eos_token, tokenizer.pad_token = NEVER_SAID, NEVER_SAID
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"eos_token_id": never, "pad_token_id": never}))
    return folder


def words(tokenizer: Any, seed: int) -> Any:
    """What draws texts of a given number of tokens: words that are one token each, wherever they stand."""
    ids = [
        token
        for token in range(1000, 6000)
        if (text := tokenizer.decode([token])).startswith(" ") and text[1:].isalpha() and text[1:].islower()
    ]
    rng = random.Random(seed)
    return lambda count: tokenizer.decode(rng.choices(ids, k=count))


def write_data(case: Case, tokenizer: Any, path: Path) -> None:
    """Enough examples for every step, in TRL's columns, plain."""
    draw = words(tokenizer, 0)
    with path.open("w") as file:
        for _ in range(case.rows * (case.steps + 1)):
            line = {"prompt": draw(case.prompt)}
            if case.algorithm in ("dpo", "reward_model"):
                line |= {"chosen": draw(case.answer), "rejected": draw(case.answer)}
            elif case.algorithm == "sft":
                line["completion"] = draw(case.answer)
            file.write(json.dumps(line) + "\n")


def reward(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
    """Cheap, and different for every completion."""
    return [float(sum(map(ord, text)) % 97) / 97 for text in completions]


# --- ours ---


def ours(case: Case, folder: Path, data: Path) -> dict[str, Any]:
    """Seconds of each step, and of its phases."""
    import torch

    import advantage

    chosen: dict[str, Any] = {"batch_size": case.rows, "learning_rate": 1e-6, "threads": torch.get_num_threads()}
    if case.algorithm in ("grpo", "rlhf"):
        chosen |= {"num_generations": case.n, "max_completion_length": case.answer}
        chosen |= {"rewards": "benchmarks.language:reward"}
    if case.algorithm == "rlhf":
        chosen |= {"epochs": 1, "minibatch_size": None}
    run = advantage.train(
        case.algorithm, str(folder), data=data, steps=case.steps, run_dir=data.parent / "run", quiet=True,
        checkpoint_every=1e9, **chosen,
    )  # fmt: skip
    table = run.metrics()
    moments = list(table["wall_time"])
    phases = {name[5:]: list(table[name])[1:] for name in table if name.startswith("time/")}
    return {"seconds": [b - a for a, b in pairwise(moments)], "phases": phases}


def our_sampling(case: Case, folder: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """Seconds of drawing every completion, prefill and laying out the weights included."""
    from advantage.language.models import compute_dtype, load_model
    from advantage.language.sampler import TorchSampler

    sampler = TorchSampler(load_model(str(folder)), dtype=compute_dtype())
    return {"seconds": timed(case, lambda: sampler.sample(prompts, case.n, max_tokens=case.answer))}


# --- theirs ---


def their_sampling(case: Case, folder: Path, prompts: list[list[int]]) -> dict[str, Any]:
    """As ours, by `generate` of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    from advantage.language.models import compute_dtype

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=compute_dtype() or torch.float32)
    rows = torch.tensor([ids for ids in prompts for _ in range(case.n)])
    length = {"max_new_tokens": case.answer, "min_new_tokens": case.answer}

    def draw() -> None:
        with torch.inference_mode():
            model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=True, top_k=0, **length)

    return {"seconds": timed(case, draw)}


def theirs(case: Case, folder: Path, data: Path) -> dict[str, Any]:
    """Seconds of each of TRL's steps."""
    import transformers
    import trl
    from datasets import Dataset

    from advantage.language.models import compute_dtype

    moments: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            moments.append(time.perf_counter())

    rows = [json.loads(line) for line in data.read_text().splitlines()]
    common: dict[str, Any] = {
        "output_dir": str(data.parent / "trl"), "max_steps": case.steps, "per_device_train_batch_size": case.rows,
        "learning_rate": 1e-6, "gradient_checkpointing": False, "bf16": compute_dtype() is not None,
        "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip
    more: dict[str, Any] = {}
    if case.algorithm == "grpo":
        common |= {
            "per_device_train_batch_size": case.rows * case.n, "num_generations": case.n, "beta": 0.0,
            "max_completion_length": case.answer, "generation_kwargs": {"min_new_tokens": case.answer},
            "loss_type": "grpo",
        }  # fmt: skip
        more = {"reward_funcs": reward}
    kind = {"grpo": "GRPO", "dpo": "DPO", "sft": "SFT", "reward_model": "Reward"}[case.algorithm]
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(folder),
        args=getattr(trl, f"{kind}Config")(**common),
        train_dataset=Dataset.from_list(rows),
        callbacks=[Clock()],
        **more,
    )
    trainer.train()
    return {"seconds": [b - a for a, b in pairwise(moments)]}


# --- taking turns ---


def timed(case: Case, work: Any) -> list[float]:
    """Seconds of each call behind the first."""
    found = []
    for _ in range(case.steps):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found[1:]


def child(who: str, case: Case, folder: Path) -> None:
    """What the process of one measurement does."""
    import torch

    from advantage.language.memory import keep_blocks
    from advantage.language.models import load_tokenizer

    keep_blocks()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    tokenizer = load_tokenizer(str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.jsonl"
        write_data(case, tokenizer, data)
        if case.algorithm == "sampling":
            texts = [json.loads(line)["prompt"] for line in data.read_text().splitlines()[: case.rows]]
            prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            found = {"ours": our_sampling, "theirs": their_sampling}[who](case, folder, prompts)
        else:
            found = {"ours": ours, "theirs": theirs}[who](case, folder, data)
    print(json.dumps(found | {"peak": peak()}))


def peak() -> float:
    """The most memory that this process had, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(who: str, case: Case, folder: Path) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.language", "--child", who, json.dumps(vars(case)), str(folder)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        sys.exit(f"{case.what}, {who}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"step": statistics.median(found["seconds"])}


def beside(case: Case, folder: Path, pairs: int) -> str:
    """A line of the table beside TRL."""
    turns = [[measure(who, case, folder) for who in ("ours", "theirs")] for _ in range(pairs)]
    a, b = ([statistics.median(pair[side][key] for pair in turns) for key in ("step", "peak")] for side in (0, 1))
    ratios = [theirs["step"] / ours["step"] for ours, theirs in turns]
    each = f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    speeds = [f"{step:.2f} s" for step in (a[0], b[0])]
    if case.algorithm == "sampling":
        speeds = [f"{case.rows * case.n * case.answer / step:,.0f} tokens/s" for step in (a[0], b[0])]
    return f"| {case.what} | {' | '.join(speeds)} | {each} | {a[1]:,.0f} | {b[1]:,.0f} | {a[1] / b[1]:.0%} |"


def alone(folder: Path) -> None:
    """What is measured of ours alone: where the time goes, time against length, a critic's memory."""
    print("\n| GRPO, 4 × 8, 48 tokens of prompt | a step | generate | update |\n|---|---|---|---|")
    for answer in (24, 48, 96, 192):
        found = measure("ours", Case("", "grpo", 4, 48, answer, 8, steps=3), folder)
        parts = " | ".join(f"{statistics.median(found['phases'][name]):.2f} s" for name in ("generate", "update"))
        print(f"| {answer} tokens of completion | {found['step']:.2f} s | {parts} |", flush=True)
    print("\n| one model, 32 completions of 48 + 48 tokens | a step | peak memory, MiB |\n|---|---|---|")
    for name, case in {
        "GRPO, no reference": Case("", "grpo", 4, 48, 48, 8),
        "RLHF, critic a head on the actor, with reference": Case("", "rlhf", 4, 48, 48, 8),
    }.items():
        found = measure("ours", case, folder)
        print(f"| {name} | {found['step']:.2f} s | {found['peak']:,.0f} |", flush=True)


def main() -> None:
    """Measures in turns and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[*CASES, "alone"], help=f"of {', '.join(CASES)}, alone")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("WHO", "CASE", "FOLDER"))
    options = parser.parse_args()
    if options.child:
        who, case, folder = options.child
        child(who, Case(**json.loads(case)), Path(folder))
        return
    from advantage.language.models import compute_dtype

    threads, dtype = os.environ.get("OMP_NUM_THREADS", os.cpu_count()), "bfloat16" if compute_dtype() else "float32"
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')},"
        f" trl {version('trl')}; {dtype}, {threads} threads"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch))
        chosen = [CASES[name] for name in options.cases if name != "alone"]
        if chosen:
            print(
                "\n| | ours | TRL | ratio (each pair) | peak, MiB | TRL | |\n|---|---|---|---|---|---|---|", flush=True
            )
        for case in chosen:
            print(beside(case, folder, options.pairs), flush=True)
        if "alone" in options.cases:
            alone(folder)


if __name__ == "__main__":
    main()
