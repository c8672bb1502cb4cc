"""The network: its weights at the start, its parts, every pair of spaces, its masks, and one of somebody else's."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from advantage.algorithms.ppo import Settings, objective
from advantage.control.collect import collect
from advantage.control.policy import ACTIVATIONS, ActorCritic, make_policy
from advantage.control.settings import Control
from advantage.control.spaces import encoder_for
from advantage.errors import RunFailed
from advantage.trajectory import Batch, Evaluation, Policy, Tree, tree_leaves, tree_map
from advantage.update import ascend, estimate, minibatches
from tests.control.scripted import Masked
from tests.control.worlds import Paid, world

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def network(action: spaces.Space[Any] | None = None, seed: int = 0, **settings: Any) -> ActorCritic:
    chosen = Control(**{"network": (16, 12)} | settings)
    return make_policy(BOX, action or spaces.Discrete(4), chosen, seed)


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()


def linear(part: nn.Module) -> list[nn.Linear]:
    return [layer for layer in part.modules() if isinstance(layer, nn.Linear)]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- weights ---


@pytest.mark.parametrize("share_trunk", [False, True], ids=["", "shared trunk"])
@pytest.mark.parametrize(
    "action",
    [spaces.Discrete(4), BOX, spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)))],
    ids=["discrete", "box", "tuple"],
)
def test_orthogonal_weights_with_the_gain_of_their_place(action: spaces.Space[Any], share_trunk: bool) -> None:
    """W is g times a matrix of orthonormal rows or columns: all its singular values are g."""
    policy = network(action, share_trunk=share_trunk, state_dependent_std=True)
    gains = [(policy.actor, math.sqrt(2)), (policy.critic, math.sqrt(2)), (policy.head, 0.01), (policy.value_head, 1.0)]
    for part, gain in gains:
        assert linear(part)
        for layer in linear(part):
            values = torch.linalg.svdvals(layer.weight)
            torch.testing.assert_close(values, torch.full_like(values, gain), rtol=1e-5, atol=0)
    assert not any(layer.bias.any() for layer in linear(policy))


def test_torch_s_own_weights_where_orthogonal_ones_are_not_wanted() -> None:
    policy = network(orthogonal_init=False)
    for layer in linear(policy):
        bound = 1 / math.sqrt(layer.in_features)
        assert layer.bias.any() and layer.weight.abs().max() <= bound
    assert torch.linalg.svdvals(policy.critic[0].weight).std() > 0.01


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not() -> None:
    first, again, other = (network(BOX, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["actor.0.weight"], other["actor.0.weight"])


def test_making_a_network_does_not_disturb_torch_s_generator_nor_listen_to_it() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    policy = network()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(policy.value_head.weight, network().value_head.weight)


def test_actions_are_nearly_even_at_the_start_and_values_are_not_nothing() -> None:
    policy = network()
    seen = {"observation": normal(50, 3, scale=2.0)}
    shares = policy.head(policy.actor(policy.encoder(seen["observation"])), None).log_probs.exp()
    assert (shares - 0.25).abs().max() < 0.02
    assert policy.value(seen).std() > 0.2


# --- parts ---


def test_each_role_has_a_trunk_of_its_own_or_both_share_one() -> None:
    trunk, actions, value = 3 * 16 + 16 + 16 * 12 + 12, 12 * 4 + 4, 12 + 1
    apart, together = network(), network(share_trunk=True)
    assert count(apart) == 2 * trunk + actions + value
    assert count(together) == trunk + actions + value
    assert together.actor is together.critic


@pytest.mark.parametrize("share_trunk", [False, True], ids=["apart", "shared"])
def test_the_critic_s_error_reaches_the_actor_through_a_shared_trunk_alone(share_trunk: bool) -> None:
    policy = network(share_trunk=share_trunk)
    said = policy.evaluate(decisions({"observation": torch.ones(2, 1, 3)}, torch.zeros(2, 1, dtype=torch.long)))
    assert said.values is not None
    said.values.sum().backward()
    assert all((parameter.grad is not None) == share_trunk for parameter in policy.actor.parameters())
    assert all(parameter.grad is None for parameter in policy.head.parameters())


def test_layers_stand_in_the_order_asked_for() -> None:
    kinds = [type(layer) for layer in network(layer_norm=True, activation="silu").critic]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.SiLU] * 2
    assert [type(layer) for layer in network().actor] == [nn.Linear, nn.Tanh] * 2
    assert not list(network(network=()).actor)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_they_are_called(name: str) -> None:
    expected: Any = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x))}[name]
    policy = network(activation=name, network=(7,))
    seen = torch.tensor([[0.4, -2.0, 0.9]])
    with torch.no_grad():
        hidden = expected((seen @ policy.critic[0].weight.T).double().numpy())
        value = hidden @ policy.value_head.weight[0].double().numpy()
    assert policy.value({"observation": seen}).tolist() == pytest.approx(value.tolist(), abs=1e-6)


def test_layer_norm_makes_hidden_layers_deaf_to_scale() -> None:
    seen = torch.tensor([[0.4, -2.0, 0.9]])
    for layer_norm in (False, True):
        policy = network(layer_norm=layer_norm)
        one, large = (policy.value({"observation": scale * seen}).item() for scale in (1.0, 1000.0))
        assert (one == pytest.approx(large, abs=1e-4)) == layer_norm


def test_the_log_std_at_the_start() -> None:
    assert torch.equal(network(BOX, log_std_init=-0.7).head.log_std, torch.full((3,), -0.7))


# --- spaces ---

LEAVES: dict[str, spaces.Space[Any]] = {
    "box": BOX,
    "discrete": spaces.Discrete(3, start=2),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi binary": spaces.MultiBinary(3),
}
SPACES = LEAVES | {
    "dict": spaces.Dict(LEAVES),
    "tuple": spaces.Tuple((spaces.Dict(LEAVES), *LEAVES.values())),
}


def decisions(context: Tree, actions: Tree) -> Batch:
    shape = next(tree_leaves(actions)).shape[:2]
    return Batch.of_rows(context, actions, torch.ones(shape, dtype=torch.bool))


def observations(space: spaces.Space[Any], rows: int) -> Tree:
    many = batch_space(space, rows)
    many.seed(0)
    return tree_map(torch.from_numpy, many.sample())


@pytest.mark.parametrize(("seen", "done"), itertools.product(SPACES, SPACES))
def test_every_observation_space_meets_every_action_space(seen: str, done: str) -> None:
    """Scored as it acts, rows × time as flat rows; every entry of an observation that is not 0 reaches the network."""
    policy = make_policy(SPACES[seen], SPACES[done], Control(network=(8,)), 0)
    context = {"observation": observations(SPACES[seen], 6)}
    actions = policy.act(context, policy.noise(np.random.default_rng(0), (6,)))
    shaped = tree_map(lambda leaf: leaf.unflatten(0, (2, 3)), context)
    said = policy.evaluate(decisions(shaped, tree_map(lambda leaf: leaf.detach().unflatten(0, (2, 3)), actions)))
    distribution = policy.head(policy.actor(policy.encoder(context["observation"])), None)
    assert said.logp is not None and said.entropy is not None and said.values is not None
    torch.testing.assert_close(said.logp.flatten(), distribution.logp(tree_map(torch.detach, actions)))
    torch.testing.assert_close(said.entropy.flatten(), distribution.entropy())
    torch.testing.assert_close(said.values.flatten(), policy.value(context))
    assert said.logp.shape == said.entropy.shape == said.values.shape == (2, 3)
    (said.logp + said.entropy + said.values).sum().backward()
    heard = policy.actor[0].weight.grad.abs().sum(0) + policy.critic[0].weight.grad.abs().sum(0)
    shown = encoder_for(SPACES[seen], torch.float32)(context["observation"]).any(0)
    assert torch.equal(heard > 0, shown)


@pytest.mark.parametrize("share_trunk", [False, True], ids=["apart", "shared"])
def test_a_batch_is_scored_row_by_row(share_trunk: bool) -> None:
    policy = network(share_trunk=share_trunk, orthogonal_init=False)
    seen, actions = normal(5, 2, 3), torch.arange(10).reshape(5, 2) % 4
    whole = policy.evaluate(decisions({"observation": seen}, actions))
    for row, time in itertools.product(range(5), range(2)):
        here = (slice(row, row + 1), slice(time, time + 1))
        alone = policy.evaluate(decisions({"observation": seen[here]}, actions[here]))
        for name in ("logp", "entropy", "values"):
            torch.testing.assert_close(getattr(whole, name)[here], getattr(alone, name))


def test_without_noise_the_most_probable_action_is_taken() -> None:
    policy = network(orthogonal_init=False)
    seen = normal(20, 3)
    every = torch.stack([policy.evaluate(decisions({"observation": seen[:, None]}, torch.full((20, 1), a))).logp
                         for a in range(4)])  # fmt: skip
    assert torch.equal(policy.act({"observation": seen}, None), every.squeeze(-1).argmax(0))


# --- masks ---


def test_a_forbidden_action_is_never_taken_and_has_no_probability() -> None:
    policy = network(orthogonal_init=False)
    legal = torch.tensor([[True, False, True, False]]).expand(400, 4)
    context = {"observation": normal(400, 3), "action_mask": legal}
    taken = policy.act(context, policy.noise(np.random.default_rng(0), (400,)))
    assert set(taken.tolist()) == {0, 2}
    shares = [
        policy.evaluate(
            decisions(tree_map(lambda leaf: leaf[:, None], context), torch.full((400, 1), action))
        ).logp.exp()
        for action in range(4)
    ]
    assert not shares[1].any() and not shares[3].any()
    torch.testing.assert_close(shares[0] + shares[2], torch.ones(400, 1))


def test_a_mask_changes_no_value() -> None:
    policy = network()
    seen, legal = normal(5, 3), torch.eye(5, 4, dtype=torch.bool)
    alone, masked = policy.value({"observation": seen}), policy.value({"observation": seen, "action_mask": legal})
    assert torch.equal(alone, masked)


@pytest.mark.parametrize(
    ("action", "empty"),
    [(spaces.Discrete(3), [0, 0, 0]), (spaces.MultiDiscrete([2, 1]), [1, 1, 0])],
    ids=["discrete", "one choice of two"],
)
def test_a_mask_that_allows_nothing_names_environment_and_step(action: spaces.Space[Any], empty: list[int]) -> None:
    free = masked([[1, 1, 1]], action)
    found = world([free, masked([[1, 1, 1], [1, 1, 1], empty], action)])
    with pytest.raises(RunFailed, match="environment 1 allows no action at step 4: its action_mask is empty"):
        collect(*found, 8, np.random.default_rng(0))


def masked(masks: list[list[int]], action: spaces.Space[Any]) -> Any:
    return lambda: Masked(masks, action, length=9)


# --- a network of one's own ---


class Coin(nn.Module):
    """A policy of ten lines over two actions: P(1) = σ(w·s)."""

    def __init__(self) -> None:
        super().__init__()
        self.logit, self.critic = nn.Linear(2, 1), nn.Linear(2, 1)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rng.random((*shape, 1))).float()

    def act(self, context: Tree, noise: Tensor | None) -> Tensor:
        chance = self.logit(context["observation"]).sigmoid()
        return ((0.5 if noise is None else noise) < chance).long().squeeze(-1)

    def value(self, context: Tree) -> Tensor:
        return self.critic(context["observation"]).squeeze(-1)

    def evaluate(self, batch: Batch) -> Evaluation:
        logit = self.logit(batch.context["observation"]).squeeze(-1)
        logp = logsigmoid(torch.where(batch.actions == 1, logit, -logit))
        entropy = -(logsigmoid(logit) * logit.sigmoid() + logsigmoid(-logit) * (-logit).sigmoid())
        return Evaluation(logp, entropy, self.value(batch.context))


class Pays(Paid):
    """A reward of 1 for the action 1, 0 for the other."""

    def __init__(self) -> None:
        super().__init__(lambda _: (6, "truncated"), spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2))

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(action), *rest


@pytest.mark.parametrize("own", [True, False], ids=["of one's own", "ours"])
def test_any_module_that_meets_the_protocol_learns_by_ppo(own: bool) -> None:
    """One update on a rollout in which action 1 alone is paid: it becomes more probable everywhere."""
    mine: Policy | None = Coin() if own else None
    found = world([Pays] * 4, policy=mine)
    rollout = collect(*found, 32, np.random.default_rng(0))
    now = Settings(num_envs=4, num_steps=32, minibatch_size=32, epochs=4, learning_rate=1e-2)
    data = Batch.of(rollout, *estimate(rollout, 0.0, 0.0)).single_steps()
    ones = decisions(rollout.context, torch.ones_like(rollout.actions))
    before = found.policy.evaluate(ones).logp.detach()
    optimizer = torch.optim.Adam(found.policy.parameters(), lr=1e-2)
    for batch in minibatches(data, now.epochs, now.minibatch_size, np.random.default_rng(1)):
        assert ascend(found.policy, optimizer, objective, batch, now).taken
    assert (found.policy.evaluate(ones).logp.detach() > before).all()
