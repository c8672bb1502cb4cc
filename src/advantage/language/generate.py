"""Completions of prompts, what they are worth, and what is told of them: the collection of the language world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advantage.errors import UserError
from advantage.language.evidence import template_print
from advantage.language.rewards import Rewards, Scored
from advantage.language.rows import rollout_of
from advantage.language.sampler import sampler_for
from advantage.language.settings import Sampling
from advantage.language.template import decode, end_tokens, make_prompt
from advantage.language.types import Completion, Prompt, Sampler, Task
from advantage.trajectory import Batch, Rollout, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from advantage.language.policy import LanguagePolicy
    from advantage.language.source import Source

LONGEST = 256  # tokens of a completion where neither setting nor task says


@dataclass(frozen=True)
class Samples:
    """Prompts, n completions of each (prompt after prompt), their texts, and their rewards once they are judged.

    `template` is a fingerprint of how the prompts were rendered.
    """

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    scored: Scored | None = None
    template: float | None = None

    @property
    def n(self) -> int:
        """Completions of a prompt."""
        return len(self.completions) // len(self.prompts)

    @property
    def rewards(self) -> Tensor:
        """The total of each completion, 0 where it has none."""
        assert self.scored is not None
        return self.scored.total

    @property
    def valid(self) -> Tensor:
        """Which completions have a reward."""
        assert self.scored is not None
        return self.scored.valid

    def rollout(self) -> Rollout:
        """The completions as streams; one without a reward has no true step."""
        rollout = rollout_of(self.prompts, self.completions)
        return rollout if self.scored is None else rollout.replace(mask=rollout.mask & self.valid[:, None])

    def judged(self, rewards: Rewards) -> Samples:
        """With what each is worth."""
        return replace(self, scored=rewards(self.prompts, self.completions, self.texts))

    def texts_for_people(self) -> list[Sample]:
        """One record a completion, for the run's database."""
        assert self.scored is not None
        found = []
        for i, (completion, text) in enumerate(zip(self.completions, self.texts, strict=True)):
            group, index = divmod(i, self.n)
            reward = float(self.rewards[i]) if self.valid[i] else None
            shown = plain(self.prompts[group].shown)
            found.append(Sample(group, index, shown, text, reward, completion.finish_reason))
        return found


def longest_completion(asked: int, task: Task | None, config: Any) -> int:
    """Tokens at which a completion is cut: what is asked for, or what the task needs, or at most half of the context.

    Raises:
        UserError: it would leave no room for a prompt.
    """
    context = getattr(config, "max_position_embeddings", None)
    longest = asked or (task.max_completion_length if task else 0)
    if not longest:
        return LONGEST if context is None else max(1, min(LONGEST, context // 2))
    if context is not None and longest >= context:
        raise UserError(
            f"max_completion_length is {longest}, and the model's context holds {context} tokens, those of the prompt"
            " too; lower it"
        )
    return longest


class Generator:
    """Draws completions from the policy as it stands.

    Args:
        policy: whose model is sampled.
        tokenizer: its own.
        settings: how completions are drawn.
        task: whose answers say how long a completion may be, where the settings do not.
        seed: of the random numbers.

    Attributes:
        longest: tokens at which a completion is cut.
        notes: what the sampler says of itself.

    Raises:
        UserError: a sampling distribution that training could not score.
    """

    def __init__(
        self,
        policy: LanguagePolicy,
        tokenizer: PreTrainedTokenizerBase,
        settings: Sampling,
        task: Task | None,
        seed: int,
    ) -> None:
        if settings.top_p < 1 or settings.top_k > 0:
            raise UserError(
                f"top_p is {settings.top_p:g} and top_k {settings.top_k}; what is trained on is sampled at top_p=1 and"
                " top_k=0, since the scores of a cut distribution would make every ratio wrong"
            )
        self.policy, self.tokenizer, self.seed = policy, tokenizer, seed
        self.longest = longest_completion(settings.max_completion_length, task, policy.model.config)
        self._stop = sorted(stop_ids(policy.model, tokenizer))
        self._sampler: Sampler = sampler_for(policy.model, tokenizer, dtype=policy.compute)
        self.notes: Sequence[str] = self._sampler.notes

    def draw(self, prompts: Sequence[Prompt], n: int, step: int, temperature: float | None = None) -> Samples:
        """n completions a prompt; at the policy's own temperature unless another is asked for (0 is greedy)."""
        found = self._sampler.sample(
            [prompt.ids for prompt in prompts],
            n,
            max_tokens=self.longest,
            temperature=self.policy.temperature if temperature is None else temperature,
            stop_ids=self._stop,
            seed=self.seed,
            step=step,
            indices=[prompt.index for prompt in prompts],
        )
        texts = tuple(completion_text(self.tokenizer, completion.ids) for completion in found)
        return Samples(tuple(prompts), tuple(found), texts, template=template_print(self.tokenizer))


def prompts_of(source: Source, n: int, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The next n prompts of a source, each named by its place in the order in which they are taken.

    Not by its place in the data: one that comes again must get other random numbers, in the same update too.
    """
    first = source.position
    return [make_prompt(tokenizer, example, first + i) for i, (_, example) in enumerate(source.take(n))]


def joined(parts: Sequence[Samples]) -> Samples:
    """Several draws as one; all judged by the same functions."""
    scores = [part.scored for part in parts]
    first = scores[0]
    assert first is not None
    all_of = [score for score in scores if score is not None]
    scored = Scored(
        total=torch.cat([score.total for score in all_of]),
        valid=torch.cat([score.valid for score in all_of]),
        by_name={name: [value for score in all_of for value in score.by_name[name]] for name in first.by_name},
        token_rewards=None
        if any(score.token_rewards is None for score in all_of)
        else [row for score in all_of for row in score.token_rewards or ()],
        failures={
            name: sum(score.failures.get(name, 0) for score in all_of)
            for name in {name for score in all_of for name in score.failures}
        },
        unscored=sum(score.unscored for score in all_of),
    )
    return Samples(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(completion for part in parts for completion in part.completions),
        tuple(text for part in parts for text in part.texts),
        scored,
        parts[0].template,
    )


def of_groups(samples: Samples, groups: Sequence[int]) -> Samples:
    """Some of the prompts with all their completions."""
    assert samples.scored is not None
    rows = [group * samples.n + i for group in groups for i in range(samples.n)]
    scored = samples.scored
    kept = replace(
        scored,
        total=scored.total[rows],
        valid=scored.valid[rows],
        by_name={name: [values[row] for row in rows] for name, values in scored.by_name.items()},
        token_rewards=None if scored.token_rewards is None else [scored.token_rewards[row] for row in rows],
    )
    return Samples(
        tuple(samples.prompts[group] for group in groups),
        tuple(samples.completions[row] for row in rows),
        tuple(samples.texts[row] for row in rows),
        kept,
        samples.template,
    )


def describe(samples: Samples) -> dict[str, float]:
    """What is recorded of an update's completions, under the names that TRL gives them."""
    assert samples.scored is not None
    scored, lengths = samples.scored, torch.tensor([len(c.ids) for c in samples.completions], dtype=torch.float32)
    found = {
        "completions/mean_length": float(lengths.mean()),
        "completions/clipped_ratio": sum(c.finish_reason == "length" for c in samples.completions) / len(lengths),
        "completions/tokens": float(lengths.sum()),
        "completions/unscored": float((~scored.valid).sum()),
        "rewards/failures": float(sum(scored.failures.values())),
        "completions/repetition": sum(repetition(c.ids) for c in samples.completions) / len(lengths),
    }
    if samples.template is not None:
        found["examples/template"] = samples.template
    rewards = scored.total[scored.valid]
    if len(rewards):
        found["reward"] = float(rewards.mean())
    return found | _of_groups(samples, scored) | _of_functions(scored)


def _of_groups(samples: Samples, scored: Scored) -> dict[str, float]:
    """How far the rewards of a prompt's completions lie apart; of a single one nothing can be said."""
    if samples.n == 1:
        return {}
    groups = [r[v] for r, v in zip(scored.total.split(samples.n), scored.valid.split(samples.n), strict=True)]
    spreads = torch.stack([group.std() if len(group) > 1 else torch.zeros(()) for group in groups])
    return {"reward_std": float(spreads.mean()), "frac_reward_zero_std": float((spreads == 0).float().mean())}


def _of_functions(scored: Scored) -> dict[str, float]:
    """Each function's mean; of several also what share of the total's variance it explains by itself.

        share_k = corr(r_k, total)², over the completions that have a reward; r_k is 0 where it does not apply

    A weight does not change it. Of a function without spread there is none.
    """
    found = {}
    for name, values in scored.by_name.items():
        known = [value for value in values if value is not None]
        if known:
            found[f"rewards/{name}/mean"] = sum(known) / len(known)
        if len(scored.by_name) > 1 and scored.valid.any():
            own = torch.tensor([value or 0.0 for value in values], dtype=torch.float64)[scored.valid]
            own, total = (x - x.mean() for x in (own, scored.total[scored.valid].double()))
            spread = own.square().sum() * total.square().sum()
            if spread > 0:
                found[f"rewards/{name}/share"] = float((own * total).sum().square() / spread)
    return found


def kl_to_reference(logp: Tensor, batch: Batch) -> float:
    """Σ_t (log π − log π_ref) of a completion, mean over completions: an estimate of the KL of whole answers."""
    assert batch.logp_ref is not None and batch.mask is not None
    return float((logp - batch.logp_ref).masked_fill(~batch.mask, 0.0).sum() / batch.sequences)


def watched(samples: Samples, gold: Rewards | None) -> dict[str, float]:
    """What the completions are worth to a reward that nothing is trained on, where there is one."""
    if gold is None:
        return {}
    scored = samples.judged(gold)
    return {"gold": float(scored.rewards[scored.valid].mean())} if scored.valid.any() else {}


def accuracy(generator: Generator, task: Task, prompts: int, n: int = 1, temperature: float = 0.0) -> list[list[float]]:
    """Rewards of n completions of each of the task's first held-out prompts, greedy unless a temperature is given."""
    tokenizer = generator.tokenizer
    asked = [make_prompt(tokenizer, task.example(index, held_out=True), index) for index in range(prompts)]
    samples = generator.draw(asked, n, step=0, temperature=temperature)
    columns = {name: [p.columns[name] for p in asked for _ in range(n)] for name in asked[0].columns}
    shown = [p.shown for p in asked for _ in range(n)]
    answers: list[Any] = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(shown, samples.texts, strict=True)
    ]
    found = [float(value or 0.0) for value in task.reward(shown, answers, **columns)]
    return [found[i : i + n] for i in range(0, len(found), n)]


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a completion: the tokenizer's end token and those that the model's own settings name."""
    found = {tokenizer.eos_token_id}
    config = getattr(model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    found |= set(named) if isinstance(named, list | tuple) else {named}
    return {int(token) for token in found if token is not None}


def completion_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A completion as the reward reads it: without the special tokens that ended it. One in its midst is shown."""
    ends = end_tokens(tokenizer)
    length = next((i for i in range(len(ids), 0, -1) if ids[i - 1] not in ends), 0)
    return decode(tokenizer, ids[:length])


def repetition(ids: Sequence[int]) -> float:
    """Share of a completion's neighbouring triples that stood in it before; 0 for one of fewer than four tokens."""
    triples = list(zip(pairwise(ids), ids[2:], strict=False))
    return 1.0 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0


def plain(shown: Any) -> str:
    """A prompt as one text, for people."""
    if isinstance(shown, str):
        return shown
    return shown[0]["content"] if len(shown) == 1 else "\n".join(f"{m['role']}: {m['content']}" for m in shown)
