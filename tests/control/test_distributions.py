"""Distributions over actions against torch's own, and against what is sampled: acting and scoring are one thing."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch import distributions as td

from advantage.control.distributions import (
    Bernoulli,
    Categorical,
    CorrelatedGaussian,
    Gaussian,
    Joint,
    MultiCategorical,
    constant,
)
from advantage.control.policy import ActorCritic, make_policy
from advantage.control.settings import Control
from advantage.trajectory import Batch, tree_leaves, tree_map

ROWS = 6


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def some_mask(seed: int, rows: int, actions: int) -> Tensor:
    """Random legal actions, at least one in a row; the first row has one alone."""
    legal = normal(seed, rows, actions) > 0
    legal[torch.arange(rows), torch.arange(rows) % actions] = True
    legal[0] = torch.arange(actions) == 1
    return legal


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=1e-12)


# --- numbers: torch's are the oracle, in float64 ---


def categoricals(seed: int, masked: bool) -> tuple[Categorical, td.Distribution, Tensor]:
    logits = normal(seed, ROWS, 5, scale=3.0)
    mask = some_mask(7, ROWS, 5) if masked else None
    theirs = td.Categorical(logits=logits if mask is None else logits.masked_fill(~mask, -math.inf))
    return (
        Categorical.of_logits(logits, mask),
        theirs,
        (theirs.probs).argmin(-1) if mask is None else theirs.probs.argmax(-1),
    )


def gaussians(seed: int, shape: tuple[int, ...], wide: bool) -> tuple[Gaussian, td.Distribution, Tensor]:
    mean, log_std = normal(seed, ROWS, *shape, scale=2.0), normal(seed + 1, *((ROWS, *shape) if wide else shape))
    theirs = td.Independent(td.Normal(mean, log_std.exp().expand_as(mean)), len(shape))
    return Gaussian(mean, log_std, len(shape)), theirs, mean + normal(seed + 2, ROWS, *shape)


def correlated(seed: int, shape: tuple[int, ...], wide: bool) -> tuple[CorrelatedGaussian, td.Distribution, Tensor]:
    n = math.prod(shape)
    mean, log_std = normal(seed, ROWS, n, scale=2.0), normal(seed + 1, *((ROWS, n) if wide else (n,)), scale=0.5)
    lower = normal(seed + 2, n, n).tril(-1)
    factor = log_std.exp().unsqueeze(-1) * (torch.eye(n, dtype=torch.float64) + lower)
    flat = td.MultivariateNormal(mean, scale_tril=factor.expand(ROWS, n, n))
    actions = mean + normal(seed + 3, ROWS, n)
    return CorrelatedGaussian(mean, log_std, lower, shape), Shaped(flat, shape), actions.reshape(ROWS, *shape)


class Shaped:
    """Torch's normal over vectors, asked about actions of another shape."""

    def __init__(self, flat: td.MultivariateNormal, shape: tuple[int, ...]) -> None:
        self.flat, self.shape = flat, shape

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.flat.log_prob(actions.reshape(ROWS, -1))

    def entropy(self) -> Tensor:
        return self.flat.entropy()


@td.register_kl(Shaped, Shaped)
def _kl_of_shaped(p: Shaped, q: Shaped) -> Tensor:
    return td.kl_divergence(p.flat, q.flat)


def bernoullis(seed: int, shape: tuple[int, ...], scale: float) -> tuple[Bernoulli, td.Distribution, Tensor]:
    logits = normal(seed, ROWS, *shape, scale=scale)
    theirs = td.Independent(td.Bernoulli(logits=logits), len(shape))
    return Bernoulli(logits, len(shape)), theirs, (normal(seed + 1, ROWS, *shape) > 0).double()


PAIRS: dict[str, Callable[[int], tuple[Any, td.Distribution, Tensor]]] = {
    "categorical": lambda seed: categoricals(seed, masked=False),
    "masked categorical": lambda seed: categoricals(seed, masked=True),
    "gaussian": lambda seed: gaussians(seed, (3,), wide=False),
    "gaussian with a std of the state": lambda seed: gaussians(seed, (3,), wide=True),
    "gaussian matrix": lambda seed: gaussians(seed, (2, 3), wide=False),
    "gaussian number": lambda seed: gaussians(seed, (), wide=True),
    "correlated gaussian": lambda seed: correlated(seed, (3,), wide=False),
    "correlated gaussian with a std of the state": lambda seed: correlated(seed, (3,), wide=True),
    "correlated gaussian matrix": lambda seed: correlated(seed, (2, 2), wide=True),
    "bernoulli": lambda seed: bernoullis(seed, (4,), 3.0),
    "nearly certain bernoulli": lambda seed: bernoullis(seed, (4,), 12.0),
    "bernoulli matrix": lambda seed: bernoullis(seed, (2, 3), 1.0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_numbers_are_torch_s(name: str) -> None:
    mine, theirs, actions = PAIRS[name](0)
    others, their_others, _ = PAIRS[name](100)
    close(mine.logp(actions), theirs.log_prob(actions))
    entropy = theirs.entropy()
    if name == "masked categorical":  # torch's p · log p is NaN-free but not exactly 0 where p is 0
        entropy = -(theirs.probs * theirs.probs.clamp(min=1e-300).log()).sum(-1)
    close(mine.entropy(), entropy)
    close(mine.kl(others), td.kl_divergence(theirs, their_others), 1e-9)  # torch's loses digits in 1 − p
    close(mine.kl(mine), torch.zeros(ROWS, dtype=torch.float64))
    assert mine.logp(actions).shape == mine.entropy().shape == mine.kl(others).shape == (ROWS,)


@pytest.mark.parametrize("name", PAIRS)
def test_the_kl_is_what_samples_say(name: str) -> None:
    """E_p[log p − log q] over 40,000 samples a row, within 4.5 standard errors: 99.99 % for all rows of a case."""
    mine, _, _ = PAIRS[name](0)
    others, _, _ = PAIRS[name](100)
    if name == "masked categorical":  # both have one mask
        others = Categorical.of_logits(others.log_probs, some_mask(7, ROWS, 5))
    rng, drawn = np.random.default_rng(5), []
    for _ in range(40_000 // 200):
        many = constant(mine)
        size = next(tree_leaves(many.mode()))[0].numel() if not isinstance(many, Categorical) else 5
        for _ in range(200):
            kind = {Categorical: rng.gumbel, Bernoulli: rng.logistic}.get(type(mine), rng.standard_normal)
            actions = many.sample(torch.from_numpy(kind(size=(ROWS, size))))
            drawn.append(mine.logp(actions) - others.logp(actions))
    gaps = torch.stack(drawn)
    error = (gaps.mean(0) - mine.kl(others)).abs() / (gaps.std(0) / len(gaps) ** 0.5).clamp(min=1e-12)
    assert error.max() < 4.5


def test_without_correlations_a_full_covariance_is_the_diagonal_one_to_the_bit() -> None:
    mean, log_std, noise = (normal(seed, ROWS, 3).float() for seed in (1, 2, 3))
    plain = Gaussian(mean, log_std[0], 1)
    full = CorrelatedGaussian(mean, log_std[0], torch.zeros(3, 3), (3,))
    actions = plain.sample(noise)
    assert torch.equal(full.sample(noise), actions)
    for one, other in ((plain.logp(actions), full.logp(actions)), (plain.entropy(), full.entropy())):
        assert torch.equal(one, other)
    other = Gaussian(mean + 1, log_std[1], 1), CorrelatedGaussian(mean + 1, log_std[1], torch.zeros(3, 3), (3,))
    close(full.kl(other[1]), plain.kl(other[0]), 1e-5)


def test_a_full_covariance_has_the_covariance_that_it_says() -> None:
    """200,000 samples: every entry of L Lᵀ within 5 of its standard errors."""
    mean, log_std, lower = normal(1, 1, 3), normal(2, 3, scale=0.4), normal(3, 3, 3).tril(-1)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(200_000, 3)))
    drawn = CorrelatedGaussian(mean.expand(200_000, 3), log_std, lower, (3,)).sample(noise)
    factor = log_std.exp()[:, None] * (torch.eye(3, dtype=torch.float64) + lower)
    covariance = factor @ factor.T
    spread = (covariance.diag()[:, None] * covariance.diag() + covariance**2).sqrt() / 200_000**0.5
    assert ((drawn.T.cov() - covariance).abs() / spread).max() < 5


def test_gradients_of_a_full_covariance_also_the_second_ones() -> None:
    mean, log_std, lower, actions = normal(1, 2, 3), normal(2, 3), normal(3, 3), normal(4, 2, 3)
    below = tuple(torch.tril_indices(3, 3, -1))
    other = CorrelatedGaussian(actions, log_std - 0.3, torch.zeros(3, 3).double(), (3,))

    def numbers(mean: Tensor, log_std: Tensor, entries: Tensor) -> tuple[Tensor, ...]:
        full = CorrelatedGaussian(mean, log_std, torch.zeros(3, 3).double().index_put(below, entries), (3,))
        return full.logp(actions), full.entropy(), full.kl(other), other.kl(full)

    inputs = tuple(tensor.requires_grad_() for tensor in (mean, log_std, lower))
    assert torch.autograd.gradcheck(numbers, inputs)
    assert torch.autograd.gradgradcheck(numbers, inputs)


def test_a_constant_copy_follows_no_step() -> None:
    """A Gaussian's log-std may be the parameter itself; nothing of the copy, however deep, may be."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    joint = Joint({"a": Gaussian(torch.zeros(2, 3), parameter, 1)}, (3,), dict)
    kept = constant(joint)
    with torch.no_grad():
        parameter.add_(1.0)
    assert not kept.parts["a"].log_std.any() and not kept.parts["a"].log_std.requires_grad
    assert kept.kind is dict and kept.sizes == (3,)


def test_parts_are_independent() -> None:
    choices, bits, reals = (PAIRS[name](3) for name in ("categorical", "bernoulli", "gaussian"))
    others = [PAIRS[name](50) for name in ("categorical", "bernoulli", "gaussian")]
    parts, actions = {"b": choices[0], "a": (bits[0])}, {"a": bits[2], "b": choices[2]}
    joint, other = Joint(parts, (5, 4), dict), Joint({"b": others[0][0], "a": others[1][0]}, (5, 4), dict)
    close(joint.logp(actions), choices[1].log_prob(choices[2]) + bits[1].log_prob(bits[2]))
    close(joint.entropy(), choices[1].entropy() + bits[1].entropy())
    close(joint.kl(other), sum(td.kl_divergence(m[1], o[1]) for m, o in zip((choices, bits), others, strict=False)))
    pair = Joint({0: joint, 1: reals[0]}, (9, 3), tuple)
    close(pair.logp((actions, reals[2])), joint.logp(actions) + reals[1].log_prob(reals[2]))
    noise = normal(9, ROWS, 12)
    inner, last = pair.sample(noise)
    assert list(inner) == ["b", "a"]
    assert torch.equal(inner["a"], bits[0].sample(noise[:, 5:9])) and torch.equal(last, reals[0].sample(noise[:, 9:]))
    assert torch.equal(pair.mode()[0]["b"], choices[0].mode())


def test_several_choices_are_independent() -> None:
    logits = [normal(seed, ROWS, n) for seed, n in enumerate((2, 4, 3))]
    mask = torch.cat([some_mask(seed, ROWS, n) for seed, n in enumerate((2, 4, 3))], -1)
    for masks in ([None] * 3, mask.split((2, 4, 3), -1)):
        parts = [Categorical.of_logits(one, its) for one, its in zip(logits, masks, strict=True)]
        theirs = [td.Categorical(probs=part.log_probs.exp()) for part in parts]
        many = MultiCategorical(tuple(parts), (2, 4, 3))
        actions = many.mode()
        assert actions.shape == (ROWS, 3)
        close(
            many.logp(actions),
            sum(its.log_prob(column) for its, column in zip(theirs, actions.unbind(-1), strict=True)),
        )
        close(many.entropy(), sum(part.entropy() for part in parts))
        flat = MultiCategorical(
            tuple(Categorical.of_logits(torch.zeros_like(one), its) for one, its in zip(logits, masks, strict=True)),
            (2, 4, 3),
        )
        close(many.kl(flat), sum(one.kl(its) for one, its in zip(many.choices, flat.choices, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_one_legal_action_nothing_is_left_to_choose(dtype: torch.dtype) -> None:
    logits = (1e3 * normal(0, ROWS, 5)).to(dtype).requires_grad_()
    mask = torch.nn.functional.one_hot(torch.arange(ROWS) % 5, 5).bool()
    chosen = Categorical.of_logits(logits, mask)
    assert torch.equal(chosen.mode(), torch.arange(ROWS) % 5)
    for number in (chosen.entropy(), chosen.logp(chosen.mode()), chosen.kl(chosen)):
        assert torch.equal(number, torch.zeros(ROWS, dtype=dtype))
    (slope,) = torch.autograd.grad((chosen.entropy() + chosen.logp(chosen.mode())).sum(), logits)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_gradients_under_a_mask_are_those_of_the_legal_actions_alone() -> None:
    logits, mask = normal(0, ROWS, 5).requires_grad_(), some_mask(3, ROWS, 5)
    actions = mask.int().argmax(-1)
    masked, old = Categorical.of_logits(logits, mask), Categorical.of_logits(normal(1, ROWS, 5), mask)
    numbers = masked.logp(actions) + 2.0 * masked.entropy() + 3.0 * old.kl(masked)
    (slope,) = torch.autograd.grad(numbers.sum(), logits)
    assert torch.isfinite(slope).all() and (slope[~mask] == 0).all()
    for row in range(ROWS):
        legal = logits[row].detach()[mask[row]].requires_grad_()
        alone, its_old = td.Categorical(logits=legal), td.Categorical(logits=normal(1, ROWS, 5)[row][mask[row]])
        action = (mask[row].cumsum(0) - 1)[actions[row]]
        number = alone.log_prob(action) + 2.0 * alone.entropy() + 3.0 * td.kl_divergence(its_old, alone)
        close(slope[row][mask[row]], torch.autograd.grad(number, legal)[0])


@pytest.mark.parametrize("logit", [-1e4, -80.0, 0.0, 80.0, 1e4])
def test_extreme_logits_give_finite_numbers_and_gradients(logit: float) -> None:
    for make in (lambda x: Bernoulli(x, 1), lambda x: Categorical.of_logits(x, None)):
        logits = torch.tensor([[logit, 0.0]], requires_grad=True)
        one = make(logits)
        action = torch.ones(1, 2) if isinstance(one, Bernoulli) else torch.tensor([0])
        number = one.logp(action) + one.entropy() + one.kl(make(torch.zeros(1, 2)))
        assert torch.isfinite(number).all() and (one.entropy() >= 0).all()
        assert torch.isfinite(torch.autograd.grad(number.sum(), logits)[0]).all()


# --- acting and scoring are one thing ---
#
# One context, many actions of `act`, sorted into cells; the probability of a cell is the sum (for reals the integral,
# on a grid finer than the cells) of exp(logp) as `evaluate` has it. Pearson's χ² then compares the counts. A right
# sampler gives p < 0.001 with one seed in a thousand; the seeds are fixed.

SAMPLES, CONFIDENCE = 100_000, 0.999
FINE, CELL, REACH = 0.05, 0.5, 6.0

SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(5),
    "discrete from 3": spaces.Discrete(4, start=3),
    "multi discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi binary": spaces.MultiBinary(4),
    "multi binary matrix": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(-1.0, 1.0, (1,)),
    "box number": spaces.Box(-1.0, 1.0, ()),
    "box of two": spaces.Box(-1.0, 1.0, (2,)),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (1,)))),
    "dict": spaces.Dict(
        {"b": spaces.MultiBinary(2), "a": spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([2, 2])))}
    ),
}


def network(space: spaces.Space[Any], wide: bool = False) -> ActorCritic:
    """A policy whose choices are far from even."""
    settings = Control(network=(8,), orthogonal_init=False, log_std_init=-0.3, state_dependent_std=wide)
    policy = make_policy(spaces.Box(-1.0, 1.0, (3,)), space, settings, seed=1)
    with torch.no_grad():
        for name, parameter in policy.head.named_parameters():
            parameter.mul_(1.0 if "log_std" in name else 2.0)
    return policy


def points(space: spaces.Space[Any]) -> list[tuple[Any, float]]:
    """Actions that cover a space, with the measure that each stands for."""
    if isinstance(space, spaces.Discrete):
        return [(torch.tensor(n), 1.0) for n in range(int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return [(torch.tensor(choice), 1.0) for choice in itertools.product(*(range(int(n)) for n in space.nvec))]
    if isinstance(space, spaces.MultiBinary):
        every = itertools.product((0, 1), repeat=math.prod(space.shape))
        return [(torch.tensor(bits, dtype=torch.int8).reshape(space.shape), 1.0) for bits in every]
    if isinstance(space, spaces.Box):
        line = torch.arange(-REACH + FINE / 2, REACH, FINE).tolist()
        size = math.prod(space.shape)
        return [(torch.tensor(x).reshape(space.shape), FINE**size) for x in itertools.product(line, repeat=size)]
    parts = space.spaces if isinstance(space, spaces.Tuple) else space.spaces.values()
    found = []
    for choice in itertools.product(*(points(part) for part in parts)):
        values = [value for value, _ in choice]
        action = tuple(values) if isinstance(space, spaces.Tuple) else dict(zip(space.spaces, values, strict=True))
        found.append((action, math.prod(weight for _, weight in choice)))
    return found


def cells(space: spaces.Space[Any], actions: Any) -> list[tuple[int, ...]]:
    """The cell of each of a batch of actions."""
    columns = []
    for leaf in tree_leaves(actions):
        flat = leaf.reshape(len(leaf), -1)
        columns.append(torch.floor(flat.clamp(-REACH, REACH - 1e-6) / CELL) if flat.is_floating_point() else flat)
    return [tuple(row) for row in torch.cat([column.long() for column in columns], -1).tolist()]


def scored(policy: ActorCritic, context: dict[str, Tensor], actions: Any) -> Tensor:
    rows = len(next(tree_leaves(actions)))
    many = {name: leaf.expand(rows, 1, -1) for name, leaf in context.items()}
    everything = torch.ones(rows, 1, dtype=torch.bool)
    with torch.no_grad():
        logp = policy.evaluate(Batch.of_rows(many, tree_map(lambda leaf: leaf.unsqueeze(1), actions), everything)).logp
    assert logp is not None
    return logp.squeeze(1).double()


def chi_square_p(counts: Counter[Any], expected: dict[Any, float]) -> float:
    """p of Pearson's test; cells that expect fewer than 10 are taken together."""
    assert sum(counts[cell] for cell in expected) == sum(counts.values()), "a sample outside every cell"
    common = {cell: number for cell, number in expected.items() if number >= 10}
    pairs = [(counts[cell], number) for cell, number in common.items()]
    rest = sum(expected.values()) - sum(common.values())
    if rest > 1e-3:
        pairs.append((sum(counts.values()) - sum(count for count, _ in pairs), rest))
    statistic = sum((count - number) ** 2 / number for count, number in pairs)
    return float(torch.special.gammaincc(torch.tensor((len(pairs) - 1) / 2.0), torch.tensor(statistic / 2.0)))


def agreement(policy: ActorCritic, space: spaces.Space[Any], context: dict[str, Tensor]) -> tuple[float, Counter[Any]]:
    """p of the test that the policy samples what it scores, and the counts."""
    grid = points(space)
    every = tree_map(lambda *leaves: torch.stack(leaves), *(action for action, _ in grid))
    shares = scored(policy, context, every).exp() * torch.tensor([weight for _, weight in grid], dtype=torch.float64)
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-5)
    expected: dict[Any, float] = Counter()
    for cell, share in zip(cells(space, every), shares.tolist(), strict=True):
        expected[cell] += SAMPLES * share
    noise = policy.noise(np.random.default_rng(11), (SAMPLES,))
    with torch.inference_mode():
        drawn = policy.act({name: leaf.expand(SAMPLES, -1) for name, leaf in context.items()}, noise)
    counts = Counter(cells(space, drawn))
    return chi_square_p(counts, expected), counts


KINDS = [(name, wide) for name in SPACES for wide in (False, True) if "box" in name or not wide]


@pytest.mark.parametrize(("name", "wide"), KINDS, ids=[name + ", std of the state" * wide for name, wide in KINDS])
def test_act_samples_what_evaluate_scores(name: str, wide: bool) -> None:
    policy = network(SPACES[name], wide)
    p, counts = agreement(policy, SPACES[name], {"observation": torch.tensor([[0.3, -0.8, 0.5]])})
    assert p > 1 - CONFIDENCE
    assert max(counts.values()) > 1.3 * SAMPLES / len(counts), "too even to tell samplers apart"


@pytest.mark.parametrize(
    ("space", "legal"),
    [
        (spaces.Discrete(5), [True, False, True, True, False]),
        (spaces.MultiDiscrete([2, 3, 4]), [True, True, False, True, True, True, False, False, True]),
    ],
    ids=["discrete", "multi discrete"],
)
def test_under_a_mask_too_and_what_is_illegal_never_comes(space: spaces.Space[Any], legal: list[bool]) -> None:
    context = {"observation": torch.tensor([[0.3, -0.8, 0.5]]), "action_mask": torch.tensor([legal])}
    p, counts = agreement(network(space), space, context)
    assert p > 1 - CONFIDENCE
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    for cell in counts:
        starts = np.cumsum([0, *sizes[:-1]])
        assert all(legal[start + choice] for start, choice in zip(starts, cell, strict=True)), cell


@pytest.mark.parametrize("space", [spaces.Discrete(6), spaces.MultiDiscrete([6])], ids=["discrete", "multi discrete"])
def test_no_mask_is_ever_broken(space: spaces.Space[Any]) -> None:
    """Thousands of random masks, the most wanted action forbidden in every row: sampled, deterministic and scored."""
    rows = 4000
    policy = network(space)
    observation = normal(0, rows, 3).float()
    wanted = policy.act({"observation": observation}, None).reshape(rows)
    legal = some_mask(5, rows, 6)
    legal[torch.arange(rows), wanted] = False
    legal[torch.arange(rows), (wanted + 1) % 6] = True
    context = {"observation": observation, "action_mask": legal}
    for noise in (None, policy.noise(np.random.default_rng(0), (rows,))):
        actions = policy.act(context, noise)
        assert legal.gather(1, actions.reshape(rows, 1)).all()
    everything = torch.ones(rows, 1, dtype=torch.bool)
    rows_of = {name: leaf.unsqueeze(1) for name, leaf in context.items()}
    said = policy.evaluate(Batch.of_rows(rows_of, wanted.reshape(rows, 1, *space.shape), everything))
    assert said.logp is not None and said.entropy is not None
    assert (said.logp.exp() == 0).all() and torch.isfinite(said.entropy).all()
    said.entropy.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_a_gaussian_s_samples_follow_its_density_by_kolmogorov_and_smirnov() -> None:
    """D √n < 1.95, the 99.9 % point, against the integral of exp(logp)."""
    policy = network(SPACES["box"])
    context = {"observation": torch.tensor([[-0.4, 0.9, 0.1]])}
    line = torch.arange(-REACH, REACH, 1e-3)
    share = scored(policy, context, line[:, None]).exp().cumsum(0) * 1e-3
    noise = policy.noise(np.random.default_rng(12), (SAMPLES,))
    drawn = (
        policy.act({"observation": context["observation"].expand(SAMPLES, -1)}, noise).detach().squeeze(1).sort().values
    )
    theory = torch.from_numpy(np.interp(drawn.numpy(), line.numpy() + 1e-3, share.numpy()))
    steps = torch.arange(SAMPLES + 1, dtype=torch.float64) / SAMPLES
    distance = torch.maximum((steps[1:] - theory).abs(), (theory - steps[:-1]).abs()).max()
    assert float(distance) * math.sqrt(SAMPLES) < 1.95


def noises(space: spaces.Space[Any]) -> Iterator[Tensor]:
    policy = network(space)
    for seed in (0, 0, 1):
        yield policy.noise(np.random.default_rng(seed), (7, 3))


@pytest.mark.parametrize("name", SPACES)
def test_noise_is_drawn_outside_once_for_a_rollout(name: str) -> None:
    first, again, other = noises(SPACES[name])
    assert first.shape[:2] == (7, 3) and first.dtype == torch.float32
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique()) == first.numel()
