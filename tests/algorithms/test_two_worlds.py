"""A control problem written as a language problem gets the same updates: `ppo.train` and `rlhf.train`, both whole.

Two states, two actions. As a text an episode is the tokens s₀ a₀ s₁ a₁ …, of which the actions alone are the policy's;
what stands between them is the environment's answer. The language model sees the last token alone, which makes its
parameters those of control's linear network. PPO learns in the environment; RLHF is given the texts of its episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

from advantage.adam import FlatAdam
from advantage.algorithms import ppo, rlhf
from advantage.language.generate import Samples
from advantage.language.policy import Critic, LanguagePolicy
from advantage.language.rewards import Scored
from advantage.language.rows import columns
from advantage.language.setup import Workshop
from advantage.language.types import Completion, Prompt
from advantage.trajectory import Rollout
from tests.algorithms.language_run import LanguageRun
from tests.algorithms.memory_run import MemoryRun
from tests.language.small import small_llama

UPDATES, LENGTH = 4, 5
TOLERANCE = 1e-12
COMMON: dict[str, Any] = {
    "epochs": 3,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "vf_coef": 0.5,
    "value_clip": 0.1,
    "eps_low": 0.02,
    "eps_high": 0.03,
    "learning_rate": 0.05,
    "adam_eps": 1e-6,
    "max_grad_norm": 0.3,
}
CONTROL = ppo.Settings(**COMMON, num_envs=3, num_steps=6 * LENGTH, minibatch_size=3 * 6 * LENGTH, network=())
LANGUAGE = rlhf.Settings(**COMMON, minibatch_size=None, beta=0.0)
NAMES = {
    "head.logits.weight": "model.lm_head.weight",
    "head.logits.bias": "model.lm_head.bias",
    "value_head.weight": "critic.value_head.weight",
    "value_head.bias": "critic.value_head.bias",
}
"""Control's parameters, and what they are called in the language model."""


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TwoStates(gym.Env[int, int]):
    """A reward of 1 for the action that has the state's number; the other action mostly leads to the other state."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.left = int(self.np_random.integers(2)), LENGTH
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.state) - 0.25 * self.state
        self.state ^= int(self.np_random.random() < (0.75 if action else 0.25))
        self.left -= 1
        return self.state, reward, self.left == 0, False, {}


class Weighed:
    """Keeps the policy's weights after each update."""

    weights: list[dict[str, Tensor]]
    kept: dict[str, Any]

    def weigh(self) -> None:
        policy = self.kept["policy"]
        self.weights.append({name: it.detach().clone() for name, it in policy.named_parameters() if it.requires_grad})


class ControlRun(MemoryRun, Weighed):
    def log(self, scalars: Mapping[str, float], rollout: Any, episodes: Any) -> None:
        super().log(scalars, rollout, episodes)
        self.weigh()

    def keep(self, **things: Any) -> None:
        super().keep(**things)
        self.weights = []
        self.weigh()


class TextRun(LanguageRun, Weighed):
    def log(self, scalars: Mapping[str, float], rollout: Any, episodes: Any = (), samples: Any = ()) -> None:
        super().log(scalars, rollout, episodes, samples)
        self.weigh()

    def keep(self, **things: Any) -> None:
        super().keep(**things)
        self.weights = []
        self.weigh()


@dataclass(frozen=True)
class Texts(Samples):
    """Episodes as texts in which the actions stand at every second place."""

    def rollout(self) -> Rollout:
        ids = [[*prompt.ids, *one.ids] for prompt, one in zip(self.prompts, self.completions, strict=True)]
        context, actions, mask = columns(ids, [range(1, len(row), 2) for row in ids])
        last = mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))
        return Rollout(context, actions, mask, last, torch.zeros_like(last))


def texts_of(rollout: Rollout) -> Texts:
    """The episodes of a rollout of control, stream after stream; it ends where episodes end."""
    assert rollout.rewards is not None
    ids: list[list[int]] = [[]]
    rewards: list[list[float]] = [[]]
    for stream in range(len(rollout.mask)):
        for t in rollout.mask[stream].nonzero().flatten().tolist():
            ids[-1] += [int(rollout.context["observation"][stream, t]), int(rollout.actions[stream, t])]
            rewards[-1].append(float(rollout.rewards[stream, t]))
            if rollout.terminated[stream, t]:
                ids.append([])
                rewards.append([])
    assert not ids.pop() and not rewards.pop()
    total = torch.tensor([sum(row) for row in rewards])
    scored = Scored(total, torch.ones(len(ids), dtype=torch.bool), {}, rewards, {}, 0)
    prompts = [Prompt(tuple(row[:1]), "", {}, index) for index, row in enumerate(ids)]
    completions = [Completion(tuple(row[1:]), (0.0,) * len(row[1:]), "stop") for row in ids]
    return Texts(tuple(prompts), tuple(completions), ("",) * len(ids), scored)


def language_policy(weights: Mapping[str, Tensor]) -> LanguagePolicy:
    """logits and V of the last token, as control's linear network has them of the state."""
    shape = {"hidden_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 0}
    model = small_llama(vocab=2, pad_token_id=None, tie_word_embeddings=False, **shape)
    model.model.embed_tokens.weight = nn.Parameter(torch.eye(2), requires_grad=False)
    model.model.norm = nn.Identity()
    model.lm_head = nn.Linear(2, 2)
    policy = LanguagePolicy(model, critic=Critic(2))
    policy.restore({NAMES[name]: value for name, value in weights.items()})
    return policy


def by_control() -> ControlRun:
    run = ControlRun(UPDATES)
    ppo.train([TwoStates] * CONTROL.num_envs, CONTROL, run)  # type: ignore[arg-type]
    return run


def by_language(control: ControlRun, settings: rlhf.Settings = LANGUAGE) -> TextRun:
    """`rlhf.train` on the texts of control's episodes, from control's first weights."""
    policy, run = language_policy(control.weights[0]), TextRun(UPDATES)
    optimizer = FlatAdam(policy, settings.learning_rate, settings.adam_eps)
    drawn = iter(control.rollouts)
    generator = SimpleNamespace(longest=LENGTH, draw=lambda prompts, n, step: texts_of(next(drawn)))
    with (
        mock.patch.multiple(
            rlhf,
            prepare=lambda *_, **__: Workshop(policy, None, optimizer, None, None),  # type: ignore[arg-type]
            generator_of=lambda *_: generator,
            rewards_of=lambda *_: None,
            prompts_of=lambda *_: [],
        ),
        mock.patch.object(Samples, "judged", lambda self, rewards: self),
    ):
        rlhf.train("", settings, run)  # type: ignore[arg-type]
    return run


def apart(control: ControlRun, language: TextRun) -> float:
    """The largest difference of any parameter after any update, beside how far it has come."""
    pairs = zip(control.weights, language.weights, strict=True)
    return max(float((one[name] - other[NAMES[name]]).abs().max()) for one, other in pairs for name in NAMES)


def test_a_control_problem_as_text_gets_the_same_updates() -> None:
    control = by_control()
    language = by_language(control)
    found = apart(control, language)
    came = max(float((control.weights[-1][name] - control.weights[0][name]).abs().max()) for name in NAMES)
    print(f"ppo and rlhf on two states: {found:.1e} after {UPDATES} updates that moved {came:.2f}")
    assert found < TOLERANCE < 1e-3 < came
    for name in ("loss", "value_loss", "clip_fraction", "explained_variance", "approx_kl"):
        for one, other in zip(control.logged, language.logged, strict=True):
            assert one[f"train/{name}"] == pytest.approx(other[f"train/{name}"], abs=1e-9), name
    assert control.logged[-1]["train/clip_fraction"] > 0.05, "the clip has taken part"


WRONG = {"gamma": 1.0, "gae_lambda": 1.0, "value_clip": 10.0, "eps_low": 0.2, "vf_coef": 1.0, "epochs": 2, "beta": 0.01}


@pytest.mark.parametrize("wrong", [{name: value} for name, value in WRONG.items()], ids=WRONG)
def test_one_wrong_choice_shows(wrong: dict[str, Any]) -> None:
    control = by_control()
    assert apart(control, by_language(control, replace(LANGUAGE, **wrong))) > 1e3 * TOLERANCE
