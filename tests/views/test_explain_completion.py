"""The ladder of a token: rewards as recorded, the stages of the algorithm that trained, both roads to GAE."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import advantage
from advantage.algorithms import cispo, dapo, dr_grpo, grpo, gspo, rlhf
from advantage.core import kl_k3
from advantage.errors import UserError
from advantage.runs import saved
from advantage.settings import resolve
from advantage.trajectory import Rollout
from advantage.update import estimate
from advantage.views.explain import explain, render
from advantage.views.explain_completion import rungs_of
from advantage.views.ladder import Rung
from tests.views.synthetic import make_run

COMMON: dict[str, Any] = {"task": "reverse", "threads": 1, "quiet": True, "learning_rate": 3e-4, "temperature": 1.5}
COMMON |= {"rewards": "tests.views.synthetic:varied"}


def trained(name: str, folder: Path, **settings: Any) -> advantage.Run:
    return advantage.train(name, "tiny", run_dir=folder / name, **COMMON, **settings)


@pytest.fixture(scope="module")
def of_groups(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    folder = tmp_path_factory.mktemp("explain")
    return trained("grpo", folder, steps=2, batch_size=3, num_generations=4, epochs=2, minibatch_size=6, beta=0.5)


@pytest.fixture(scope="module")
def with_critic(tmp_path_factory: pytest.TempPathFactory) -> advantage.Run:
    return trained("rlhf", tmp_path_factory.mktemp("explain"), steps=2, batch_size=8, minibatch_size=4, beta=0.5)


class Explained:
    """Rungs of any place of a kept rollout, by name, from one loaded policy."""

    def __init__(self, run: advantage.Run, algorithm: Any = None, **settings: Any) -> None:
        self.run, self.algorithm = run, algorithm or {"grpo": grpo, "rlhf": rlhf}[run.reader.config["algorithm"]]
        fields, about = run.reader.rollout()
        self.rollout, self.update = Rollout(**fields), about["update"]
        given = {name: run.reader.config["settings"][name] for name in ("task", "beta", "threads", "temperature")}
        self.now = resolve(self.algorithm.Settings, given | settings)
        self.places: list[tuple[int, int]] = [tuple(place) for place in self.rollout.mask.nonzero().tolist()]

    def __call__(self, place: tuple[int, int]) -> dict[str, Rung]:
        found = rungs_of(self.run, self.algorithm, self.rollout, self.update, self.now, place)
        return {rung.name: rung for rung in found}


def test_shares_sum_to_one_and_a_clipped_token_pulls_nothing(of_groups: advantage.Run) -> None:
    """Without a price, so that the clip alone decides; with a narrow band, so that it does."""
    explained = Explained(of_groups, eps_low=1e-3, eps_high=1e-3, beta=0.0)
    gradient = objective = clipped = 0.0
    for place in explained.places:
        rungs = explained(place)
        gradient += rungs["share of the gradient"].value
        objective += rungs["share of the objective"].value
        if "no gradient" in str(rungs["clipped surrogate"].inputs["min chose"]):
            clipped += 1
            assert rungs["share of the gradient"].value == 0.0
    assert gradient == pytest.approx(1.0, abs=1e-5) and objective == pytest.approx(1.0, abs=1e-5)
    assert clipped > 0


def test_the_reward_is_the_run_s_and_the_advantage_its_group_s(of_groups: advantage.Run) -> None:
    explained = Explained(of_groups)
    texts = of_groups.reader.completions(2, 2)
    for stream in range(12):
        rungs = explained((stream, 0))
        rewards = [row["reward"] for row in texts[stream // 4 * 4 : stream // 4 * 4 + 4]]
        assert rungs["reward"].value == texts[stream]["reward"]
        assert list(rungs["group mean"].inputs.values()) == rewards
        mean = sum(rewards) / 4
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
        assert rungs["group mean"].value == pytest.approx(mean) and rungs["group std"].value == pytest.approx(std)
        assert rungs["advantage"].value == pytest.approx((rewards[stream % 4] - mean) / (std + 1e-6), abs=1e-5)
        assert "".join(c for c in rungs["completion"].value if c not in "⟦⟧").startswith(texts[stream]["completion"])


def test_the_price_is_k3_to_the_model_that_the_run_began_with(of_groups: advantage.Run) -> None:
    explained, moved = Explained(of_groups), 0.0
    for place in explained.places[::7]:
        rungs = explained(place)
        logp, ref = rungs["ratio"].inputs["log π_new"], rungs["KL term"].inputs["log π_ref"]
        k3 = float(kl_k3(torch.tensor(float(logp)), torch.tensor(float(ref))))
        assert rungs["KL term"].value == pytest.approx(-0.5 * k3, abs=1e-7)
        moved = max(moved, abs(float(logp) - float(ref)))
    assert moved > 1e-3  # it is not the policy itself


def test_a_variant_s_stages_are_its_own(of_groups: advantage.Run) -> None:
    place = next(place for place in Explained(of_groups).places if place[1] == 2)
    plain = Explained(of_groups)(place)
    whole = [Explained(of_groups, gspo)((place[0], step))["ratio"].value for step in (0, 2)]
    assert whole[0] == whole[1]  # one ratio a completion
    assert "stop_grad" in Explained(of_groups, cispo)(place)["gain"].formula
    centred = Explained(of_groups, dr_grpo)(place)["advantage"].value
    assert centred == pytest.approx(plain["advantage"].inputs["r"] - plain["group mean"].value, abs=1e-6)
    longest = len(Explained(of_groups).rollout.mask[0])
    shaped = Explained(of_groups, dapo, overlong_cache=longest, max_completion_length=longest)(place)["shaped reward"]
    assert shaped.value < shaped.inputs["r"]


def test_both_roads_to_gae_agree_and_the_reward_is_score_less_price(with_critic: advantage.Run) -> None:
    explained = Explained(with_critic)
    advantages, returns = estimate(explained.rollout, 1.0, 0.95)
    texts = with_critic.reader.completions(2, 2)
    for stream, step in explained.places[::3]:
        rungs, length = explained((stream, step)), int(explained.rollout.mask[stream].sum())
        assert rungs["GAE, weighted mean"].value == pytest.approx(float(advantages[stream, step]), abs=1e-5)
        assert rungs["GAE, recursion"].value == pytest.approx(float(advantages[stream, step]), abs=1e-6)
        assert rungs["critic's target"].value == pytest.approx(float(returns[stream, step]), abs=1e-6)
        assert rungs["score"].value == pytest.approx(texts[stream]["reward"] if step == length - 1 else 0.0, abs=1e-6)
        inputs = rungs["KL price"].inputs
        price = -0.5 * (float(inputs["log π_old"]) - float(inputs["log π_ref"]))
        assert rungs["KL price"].value == pytest.approx(price, abs=1e-6)
        assert rungs["reward"].value == pytest.approx(rungs["score"].value + price, abs=1e-6)
        assert rungs["values"].value[step] == rungs["value"].value and len(rungs["values"].value) == length


def test_while_the_critic_learns_alone_a_token_pulls_nothing(with_critic: advantage.Run) -> None:
    assert Explained(with_critic)((0, 0))["share of the gradient"].value > 0
    assert Explained(with_critic, critic_warmup=2)((0, 0))["share of the gradient"].value == 0


def test_the_command_s_ladder_is_for_people(of_groups: advantage.Run, with_critic: advantage.Run) -> None:
    ladder = explain(of_groups.path, stream=5, step=1)
    text = render(ladder)
    assert (ladder.update, ladder.stream, ladder.step) == (2, 5, 1)
    assert "⟦" in text and "group mean" in text and "min(ρÂ, clip(ρ, 0.8, 1.2)Â)" in text
    assert "V(s_0) …" in render(explain(with_critic.path)) and explain(with_critic.path).step == 0


def test_a_token_that_is_not_there(of_groups: advantage.Run, tmp_path: Path) -> None:
    rollout = Explained(of_groups).rollout
    stream = int((~rollout.mask).any(-1).int().argmax())
    length = int(rollout.mask[stream].sum())
    with pytest.raises(UserError, match=f"no token of the completion; its steps are 0 … {length - 1}"):
        explain(of_groups.path, stream=stream, step=length)
    mask = rollout.mask.clone()
    mask[1] = False
    about = of_groups.reader.rollout()[1]
    saved.write_rollout(of_groups.path / "rollout", replace(rollout, mask=mask), about)
    with pytest.raises(UserError, match="left out of the update"):
        explain(of_groups.path, stream=1)
    saved.write_rollout(of_groups.path / "rollout", rollout, about)


@pytest.mark.parametrize("name", ["sft", "dpo", "reward_model"])
def test_given_examples_have_no_ladder(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"train/loss": 1.0}], algorithm=name, target="tiny", language=True)
    with pytest.raises(UserError, match=f"{name} learns from given examples and keeps no rollout"):
        explain(run)
