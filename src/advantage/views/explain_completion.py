"""The ladder of one token: what the completion earned, what the token is credited with, how far it has moved.

The rewards are those that the run recorded; the stages from them on are the algorithm's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advantage.algorithms import grpo, rlhf
from advantage.api import Run
from advantage.core import group_mean, kl_k3, kl_reward, likelihood_ratio, standardize, surrogate
from advantage.errors import UserError
from advantage.language.agent import LanguageAgent
from advantage.language.generate import Generator, Samples
from advantage.language.models import load_model
from advantage.language.rewards import Scored
from advantage.language.rows import batch_of
from advantage.language.tasks import task as task_of
from advantage.language.types import Completion, Prompt
from advantage.trajectory import Batch, Evaluation, Rollout
from advantage.update import estimate, scored
from advantage.views.explain_control import recorded
from advantage.views.ladder import Place, Rung, clip_rung, credit, gradient_rung, ppo_rungs, ratio_rung

Row = Mapping[str, Any]


def rungs_of(run: Run, algorithm: Any, rollout: Rollout, update: int, now: Any, place: Place) -> list[Rung]:
    """A token's ladder, in a run of grpo, of one of its variants, or of rlhf."""
    agent: LanguageAgent = run.policy
    rows = run.reader.completions(update, update)
    if len(rows) != len(rollout.mask):
        raise UserError(f"{run.path}: metrics.sqlite has {len(rows)} of the {len(rollout.mask)} completions kept")
    logp = scored(agent.policy, batch_of(rollout), now).logp
    head = _said(agent, rollout, rows[place[0]], place)
    if algorithm is rlhf:
        beta = recorded(run.reader.metrics(), "train/beta", update)  # as it was adapted
        return [*head, *_with_critic(rollout, logp, rows, update, replace(now, beta=beta), place)]
    reference = None
    if now.beta > 0:
        reference = rollout.logp_ref if rollout.logp_ref is not None else _reference(run, agent, rollout, now)
    return [*head, *_in_groups(algorithm, agent, rollout, logp, reference, rows, now, place)]


def _said(agent: LanguageAgent, rollout: Rollout, row: Row, place: Place) -> list[Rung]:
    """What was asked and said, and which token is looked at."""
    stream, step = place
    tokens = [_word(agent, token) for token in rollout.actions[stream][rollout.mask[stream]].tolist()]
    marked = "".join(f"⟦{token}⟧" if i == step else token for i, token in enumerate(tokens))
    return [
        Rung("prompt", "q", f"what was asked, of group {row['group']}", {}, _plain(row["prompt"])),
        Rung("completion", "o", "what was said; in ⟦⟧ the token that is looked at",
             {"tokens": float(len(tokens)), "finish reason": row["finish_reason"]}, marked),
        Rung("token", "o_t", f"token {step} of the completion", {"id": float(rollout.actions[place])}, tokens[step]),
    ]  # fmt: skip


def _in_groups(
    algorithm: Any,
    agent: LanguageAgent,
    rollout: Rollout,
    logp: Tensor,
    logp_ref: Tensor | None,
    rows: Sequence[Row],
    now: Any,
    place: Place,
) -> list[Rung]:
    """Of grpo and its kin: each of the stages in turn."""
    stages: grpo.Stages = algorithm.STAGES
    samples, longest = _samples(rollout, rows), _longest(agent, now)
    shaped = stages.shape(samples, now, longest)
    assert rollout.group is not None
    advantages = stages.advantages(shaped, rollout.group, samples.valid, now)
    batch = batch_of(rollout, advantages[:, None].expand(rollout.mask.shape))
    logp_old = rollout.logp_old if rollout.logp_old is not None else rollout.logp_sampler
    batch = batch.replace(logp_old=logp_old, logp_ref=logp_ref)
    ratio = stages.ratio(logp, logp_old, rollout.mask)
    gain = stages.surrogate(ratio, logp, batch, now)

    def objective(free: Tensor) -> Tensor:
        found: Tensor = algorithm.objective(Evaluation(free), batch, now, longest=longest)
        return found

    rungs = _earned(stages, samples, shaped, advantages, rollout.group, place[0])
    rungs.append(ratio_rung(ratio, logp, batch.logp_old, place, _doc(stages.ratio)))
    if stages.surrogate is grpo.clipped:
        rungs.append(clip_rung(gain, ratio, batch.advantages, place, now))
    else:
        plain = {"ρÂ": float(surrogate(ratio, batch.advantages)[place])}
        rungs.append(Rung("gain", "L_t", _doc(stages.surrogate), plain, float(gain[place])))
    if now.beta > 0:
        price, rung = _price(logp, batch, now, place)
        gain = gain - price
        rungs.append(rung)
    rungs.append(_share(stages, gain, batch, now, longest, place))
    return [*rungs, gradient_rung(objective, logp, batch.tokens, place)]


def _earned(
    stages: grpo.Stages, samples: Samples, shaped: Tensor, advantages: Tensor, group: Tensor, stream: int
) -> list[Rung]:
    """From the rewards of a prompt's completions to the advantage of one."""
    reward, others = float(samples.rewards[stream]), shaped[(group == group[stream]) & samples.valid]
    rungs = [Rung("reward", "r", "what the completion is worth", {}, reward)]
    if float(shaped[stream]) != reward:
        rungs.append(Rung("shaped reward", "r", _doc(stages.shape), {"r": reward}, float(shaped[stream])))
    mean = float(group_mean(shaped, group, valid=samples.valid)[stream])
    std = float(others.std()) if len(others) > 1 else 0.0
    each = {f"r_{i}": r for i, r in enumerate(others.tolist())}
    return [
        *rungs,
        Rung("group mean", "mean(r)", "of the prompt's completions", each, mean),
        Rung("group std", "std(r)", "of the same, over n − 1", {"n": float(len(others))}, std),
        Rung("advantage", "Â", _doc(stages.advantages), {"r": float(shaped[stream])}, float(advantages[stream])),
    ]


def _price(logp: Tensor, batch: Batch, now: Any, place: Place) -> tuple[Tensor, Rung]:
    """β·k3 of every token, and its rung."""
    divergence, formula = kl_k3(logp, batch.logp_ref), "−β (eˣ − 1 − x), x = log π_ref − log π"
    inputs = {"log π_ref": float(batch.logp_ref[place]), "β": now.beta, "k3": float(divergence[place])}
    if now.kl_correction:
        divergence, formula = likelihood_ratio(logp, batch.logp_old) * divergence, f"{formula}, weighted by ρ"
    price = now.beta * divergence
    return price, Rung("KL term", "−β k3", formula, inputs, 0.0 - float(price[place]))


def _share(stages: grpo.Stages, gain: Tensor, batch: Batch, now: Any, longest: int, place: Place) -> Rung:
    """How much of the objective is this token's."""
    assert batch.mask is not None
    gain = gain.masked_fill(~batch.mask, 0.0)
    free = gain.clone().requires_grad_()
    weights = torch.autograd.grad(stages.reduce(free, batch, now, longest), free)[0]
    parts = (weights * gain).abs()
    total = float(parts.sum())
    inputs = {"weight of the token": float(weights[place]), "L_t − β k3": float(gain[place])}
    formula = f"|weight × gain| over the sum of all tokens'; {_doc(stages.reduce)}"
    return Rung("share of the objective", "", formula, inputs, float(parts[place]) / total if total > 0 else 0.0)


def _with_critic(
    rollout: Rollout, logp: Tensor, rows: Sequence[Row], update: int, now: Any, place: Place
) -> list[Rung]:
    """Of rlhf: score and price on each token, the critic along the completion, PPO's objective."""
    assert rollout.rewards is not None and rollout.values is not None
    assert rollout.logp_old is not None and rollout.logp_ref is not None
    price = kl_reward(rollout.logp_old, rollout.logp_ref, now.beta, rollout.mask, now.kl_estimator)
    advantages, returns = estimate(rollout, now.gamma, now.gae_lambda)
    whitened = standardize(advantages, rollout.mask)
    batch, true = batch_of(rollout, whitened, returns), advantages[rollout.mask]
    learns = rlhf.critic_alone if update <= now.critic_warmup else rlhf.objective
    inputs = {"log π_old": float(rollout.logp_old[place]), "log π_ref": float(rollout.logp_ref[place]), "β": now.beta}
    paid, score = float(rollout.rewards[place]), float((rollout.rewards - price)[place])
    along = rollout.values[place[0]][rollout.mask[place[0]]].tolist()

    def objective(free: Tensor) -> Tensor:
        return learns(Evaluation(free, None, rollout.values), batch, now)

    return [
        Rung("score", "score_t", "the reward, on the last token; or what each token earned",
             {"of the completion": rows[place[0]]["reward"]}, score),
        Rung("KL price", "−β k_t", f"{now.kl_estimator} of KL(π‖π_ref) at this token", inputs, float(price[place])),
        Rung("reward", "r_t", "score_t − β k_t", {"score_t": score}, paid),
        Rung("values", "V(s_0) …", "what the critic expected before each token of the completion", {}, along),
        *credit(rollout, now.gamma, now.gae_lambda, place),
        Rung("whitened", "Â", "(Â − mean)/(std + ε) over the whole batch",
             {"mean": float(true.mean()), "std": float(true.std(correction=0))}, float(whitened[place])),
        *ppo_rungs(logp, batch, place, now),
        gradient_rung(objective, logp, batch.tokens, place),
    ]  # fmt: skip


def _samples(rollout: Rollout, rows: Sequence[Row]) -> Samples:
    """The completions as the stages take them, from what the run has kept of them."""
    places, found = rollout.context["positions"], []
    assert rollout.logp_sampler is not None and rollout.finish_reason is not None
    for i, reason in enumerate(rollout.finish_reason):
        length = 1 + int((places[i, 1:] > places[i, 0]).sum())  # a completion that is left out has its tokens still
        ids, logps = rollout.actions[i, :length].tolist(), rollout.logp_sampler[i, :length].tolist()
        found.append(Completion(tuple(ids), tuple(logps), reason))
    rewards = [row["reward"] for row in rows]
    valid = torch.tensor([reward is not None for reward in rewards])
    total = torch.tensor([reward or 0.0 for reward in rewards], dtype=torch.float32)
    groups = range(len({row["group"] for row in rows}))
    prompts = tuple(Prompt((), "", {}, group) for group in groups)
    texts = tuple(row["completion"] for row in rows)
    return Samples(prompts, tuple(found), texts, Scored(total, valid, {}, None, {}, int((~valid).sum())))


def _longest(agent: LanguageAgent, now: Any) -> int:
    """Tokens at which a completion was cut."""
    task = task_of(now.task) if now.task else None
    return Generator(agent.policy, agent.tokenizer, now, task, 0).longest


def _reference(run: Run, agent: LanguageAgent, rollout: Rollout, now: Any) -> Tensor:
    """What the model that the run began with says of the completions."""
    model = load_model(run.reader.config["target"], dtype=now.dtype, trust_remote_code=now.trust_remote_code)
    policy = LanguageAgent(model, agent.tokenizer, now).policy
    found: Tensor = scored(policy, batch_of(rollout), now).logp
    return found


def _word(agent: LanguageAgent, token: int) -> str:
    return _plain(str(agent.tokenizer.decode([token])))


def _plain(words: str) -> str:
    r"""Text in one line, with nothing in it that a terminal would obey: a line break is written \n."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def _doc(stage: Any) -> str:
    """What a stage does, in its own words."""
    return (stage.__doc__ or "").strip().partition("\n")[0].rstrip(".")
