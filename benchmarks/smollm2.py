"""A real small model: three trainings of SmolLM2-135M and what they changed, each below 40 minutes on one core.

    advantage models fetch smollm2-135m; advantage models fetch movie-snippets; pip install scikit-learn
    python -m benchmarks.smollm2 grpo
    python -m benchmarks.smollm2 reward_model
    python -m benchmarks.smollm2 dpo

`grpo` learns sums of numbers to 30 from a check of the last number; a quarter of the sums is held out. `reward_model`
learns from pairs of film sentences that people rated, beside TF-IDF with logistic regression on the same pairs. `dpo`
learns from two sentences a prompt of the model's own, ranked by that reward model; the gold judge is a classifier of
TF-IDF trained on the ratings, which no training sees, and the KL is that of whole answers. A run that stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import advantage
from advantage.language.agent import LanguageAgent
from advantage.language.evaluation import mcnemar, wilson
from advantage.language.generate import Generator
from advantage.language.rewards import resolve_rewards
from advantage.language.rows import batch_of
from advantage.language.scoring import scorer
from advantage.language.settings import Sampling
from advantage.language.tasks.snippets import load, pairs
from advantage.language.template import make_prompt
from advantage.update import scored

MODEL = "smollm2-135m"
ABOUT = ("a film", "an actor", "the end of a film", "the music of a film", "a comedy", "a thriller", "a director",
         "a scene", "a children's film", "the dialogue of a film", "a documentary", "a love story",
         "the plot of a film", "a science fiction film", "the picture of a film", "a remake")  # fmt: skip
ASKED = (
    "Write one sentence about {}.",
    "Say in one sentence what a critic wrote about {}.",
    "In one sentence, judge {}.",
)


def main() -> None:
    """Runs one of the trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("grpo", "reward_model", "dpo"))
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    {"grpo": grpo, "reward_model": reward_model, "dpo": dpo}[options.what](options.out, options.threads)


def trained(algorithm: str, path: Path, **chosen: Any) -> Path:
    """A finished run, begun or continued."""
    if not path.exists():
        advantage.train(algorithm, MODEL, run_dir=path, **chosen)
    elif advantage.load(path).reader.status()["state"] != "finished":
        advantage.resume(path)
    return path


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- GRPO: sums ---


def sums(held_out: bool) -> list[dict[str, Any]]:
    """Every sum of two numbers from 1 to 30 on one side of a fixed split."""
    every = [(a, b) for a in range(1, 31) for b in range(1, 31)]
    side = [(a, b) for a, b in every if (hashlib.sha256(f"{a}+{b}".encode()).digest()[0] < 64) == held_out]
    return [{"prompt": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": str(a + b)} for a, b in side]


def grpo(out: Path, threads: int) -> None:
    """Accuracy on held-out sums, greedy and sampled, before and after."""
    data = write(out / "sums.jsonl", sums(held_out=False))
    path = trained(
        "grpo", out / "grpo", data=data, rewards="numeric", steps=40, batch_size=8, num_generations=8,
        max_completion_length=24, learning_rate=1e-5, threads=threads, seed=0,
    )  # fmt: skip
    asked = sums(held_out=True)
    found = {}
    for name, model in {"before": MODEL, "after": str(path / "policy")}.items():
        agent = LanguageAgent.of(model)
        found[name] = {how: right(agent, asked, temperature) for how, temperature in (("greedy", 0.0), ("T = 1", 1.0))}
    print("\n| held-out sums | before, 95 % | after, 95 % | McNemar's p |\n|---|---|---|---|")
    for how in ("greedy", "T = 1"):
        before, after = found["before"][how], found["after"][how]
        told = [f"{np.mean(one):.3f} [{wilson(sum(one), len(one))[0]:.3f}, {wilson(sum(one), len(one))[1]:.3f}]"
                for one in (before, after)]  # fmt: skip
        print(f"| {how} | {told[0]} | {told[1]} | {mcnemar(before, after):.1e} |")


def right(agent: LanguageAgent, asked: Sequence[dict[str, Any]], temperature: float) -> list[bool]:
    """Which answers are right."""
    samples = drawn(agent, asked, 1, 24, temperature).judged(resolve_rewards(["numeric"], None))
    return [bool(reward > 0.5) for reward in samples.rewards]


def drawn(agent: LanguageAgent, asked: Sequence[dict[str, Any]], n: int, longest: int, temperature: float) -> Any:
    """Completions of examples."""
    generator = Generator(agent.policy, agent.tokenizer, Sampling(max_completion_length=longest), None, 1)
    prompts = [make_prompt(agent.tokenizer, example, index) for index, example in enumerate(asked)]
    return generator.draw(prompts, n, 0, temperature)


# --- the reward model: what people rated higher ---


def film_pairs(held_out: bool) -> list[dict[str, str]]:
    """Plain pairs of sentences at least a point of rating apart."""
    found = pairs(load(), held_out=held_out, rounds=2, min_margin=1.0, chat=False)
    return [
        {"prompt": "Film review:", "chosen": " " + one["chosen"], "rejected": " " + one["rejected"]} for one in found
    ]


def reward_model(out: Path, threads: int) -> Path:
    """Accuracy on held-out pairs beside TF-IDF with logistic regression."""
    train, test = film_pairs(held_out=False), film_pairs(held_out=True)
    data = write(out / "pairs.jsonl", train)
    path = trained(
        "reward_model", out / "reward_model", data=data, steps=min(150, len(train) // 32), batch_size=32,
        learning_rate="lin_2e-5", centring=0.01, threads=threads, seed=0,
    )  # fmt: skip
    ours = scores(path / "policy", [one[side] for one in test for side in ("chosen", "rejected")])
    theirs = linear_scorer(train)([one[side] for one in test for side in ("chosen", "rejected")])
    print(f"\n| reward model, {len(train):,} pairs | held-out pairs | accuracy, 95 % |\n|---|---|---|")
    rows = {"SmolLM2-135M": ours, "TF-IDF + logistic regression": theirs}
    verdicts = {
        name: [bool(a > b) for a, b in zip(found[0::2], found[1::2], strict=True)] for name, found in rows.items()
    }
    for name, verdict in verdicts.items():
        low, high = wilson(sum(verdict), len(verdict))
        print(f"| {name} | {len(verdict)} | {np.mean(verdict):.3f} [{low:.3f}, {high:.3f}] |")
    print(f"\nMcNemar's p between both: {mcnemar(*reversed(verdicts.values())):.1e}")
    return path


def scores(folder: Path, texts: Sequence[str]) -> list[float]:
    """What the trained reward model gives sentences."""
    judge = scorer(str(folder))
    found: list[float] = []
    for start in range(0, len(texts), 32):
        part = texts[start : start + 32]
        found.extend(judge(["Film review:"] * len(part), part))
    return found


def linear_scorer(train: Sequence[dict[str, str]]) -> Callable[[Sequence[str]], Any]:
    """Logistic regression on the difference of both sentences' TF-IDF: a linear Bradley-Terry model."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    vectors.fit([one[side] for one in train for side in ("chosen", "rejected")])
    gap = vectors.transform([one["chosen"] for one in train]) - vectors.transform([one["rejected"] for one in train])
    signs = np.where(np.arange(len(train)) % 2 == 0, 1, -1)
    model = LogisticRegression(C=10.0, fit_intercept=False, max_iter=1000).fit(
        gap.multiply(signs[:, None]).tocsr(), signs
    )
    return lambda texts: vectors.transform(texts) @ model.coef_[0]


# --- DPO: the model's own sentences, ranked by the reward model ---


def dpo(out: Path, threads: int) -> None:
    """The gold judge's probability of praise, and the KL to the model before, through the run's checkpoints."""
    judge = out / "reward_model/policy"
    asked = [{"prompt": [{"role": "user", "content": form.format(what)}]} for what in ABOUT for form in ASKED]
    before = LanguageAgent.of(MODEL)
    data = out / "ranked.jsonl"
    if not data.exists():
        write(data, ranked(before, asked, judge))
    path = trained(
        "dpo", out / "dpo", data=data, steps=60, batch_size=16, learning_rate="lin_5e-6", beta=0.1,
        threads=threads, seed=0,
    )  # fmt: skip
    gold = gold_judge()
    print("\n| | P(praise) of the gold judge, 95 % | reward model's score | KL to before, nats |\n|---|---|---|---|")
    for name, agent in {"before": before, "after": LanguageAgent.of(str(path / "policy"))}.items():
        samples = drawn(agent, asked, 8, 40, 1.0)
        praise = gold([first_sentence(text) for text in samples.texts])
        score = scores(judge, [" " + first_sentence(text) for text in samples.texts])
        half = 1.96 * praise.std(ddof=1) / len(praise) ** 0.5
        kl = divergence(agent, before, samples)
        print(f"| {name} | {praise.mean():.3f} ± {half:.3f} | {np.mean(score):.2f} | {kl:.2f} |")


def ranked(agent: LanguageAgent, asked: Sequence[dict[str, Any]], judge: Path) -> list[dict[str, Any]]:
    """Pairs of the model's own completions: the best and the worst of four by the reward model."""
    samples = drawn(agent, list(asked) * 10, 4, 40, 1.0)
    score = scores(judge, [" " + first_sentence(text) for text in samples.texts])
    rows = []
    for group, prompt in enumerate(samples.prompts):
        mine = range(4 * group, 4 * group + 4)
        best, worst = max(mine, key=score.__getitem__), min(mine, key=score.__getitem__)
        if samples.texts[best].strip() and samples.texts[worst].strip():
            said = [[{"role": "assistant", "content": samples.texts[one]}] for one in (best, worst)]
            rows.append({"prompt": prompt.shown, "chosen": said[0], "rejected": said[1]})
    return rows


def first_sentence(text: str) -> str:
    """What the judges read: as much as a snippet is."""
    return text.strip().split("\n")[0].split(". ")[0]


def gold_judge() -> Callable[[Sequence[str]], Any]:
    """P(people rate it above 0): TF-IDF on the snippets themselves, not on pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    snippets = [(text, float(np.mean(ratings))) for text, ratings in load()]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
    )
    model.fit([text for text, _ in snippets], [rating > 0 for _, rating in snippets])
    return lambda texts: model.predict_proba(texts)[:, 1]


def divergence(agent: LanguageAgent, before: LanguageAgent, samples: Any) -> float:
    """E[Σ_t log π − log π_before] of whole completions."""
    data = batch_of(samples.rollout())
    own, its = (scored(one.policy, data, agent.settings).logp for one in (agent, before))
    return float((own - its).masked_fill(~data.mask, 0.0).sum(-1).mean())


if __name__ == "__main__":
    main()
