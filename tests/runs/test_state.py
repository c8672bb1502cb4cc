import numpy as np
import pytest
import torch

from advantage.errors import UserError
from advantage.runs import tensors
from advantage.runs.state import restore, snapshot, split


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def step(module, optimizer, times):
    for number in range(times):
        for parameter in module.parameters():
            parameter.grad = torch.sin(parameter.detach() * (number + 2))
        optimizer.step()


def saved(state, path):
    arrays, scalars = split(state)
    tensors.write(path, arrays, {"scalars": scalars})
    back, about = tensors.read(path)
    return {**back, **about["scalars"]}


@pytest.mark.parametrize(
    "build",
    [
        lambda m: torch.optim.Adam(m.named_parameters(), lr=0.1, betas=(0.8, 0.9)),
        lambda m: torch.optim.SGD(m.named_parameters(), lr=0.1, momentum=0.9),
        lambda m: torch.optim.RMSprop(
            [{"params": list(m[n].named_parameters(prefix=str(n))), "weight_decay": n / 10} for n in (0, 1)], lr=0.1
        ),
    ],
)
def test_a_restored_optimizer_takes_the_same_steps(build, tmp_path):
    module, other = network(), network()
    first, second = build(module), build(other)
    step(module, first, 3)
    first.param_groups[0]["lr"] = 0.03
    restore(other, saved(snapshot(module), tmp_path / "module"))
    restore(second, saved(snapshot(first), tmp_path / "optimizer"))
    assert second.param_groups[0]["lr"] == 0.03
    for optimizer, net in ((first, module), (second, other)):
        for number in range(2):
            for parameter in net.parameters():
                parameter.grad = torch.cos(parameter.detach() * (number + 5))
            optimizer.step()
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_optimizer_state_stands_under_names():
    module = network()
    optimizer = torch.optim.Adam(module.named_parameters())
    step(module, optimizer, 1)
    state = snapshot(optimizer)
    assert state["0.weight/exp_avg"].shape == (4, 3) and state["group/0.weight/lr"] == 1e-3
    with pytest.raises(ValueError, match="no parameter for the saved"):
        restore(torch.optim.Adam(torch.nn.Linear(1, 1).named_parameters()), state)
    with pytest.raises(ValueError, match="named_parameters"):
        snapshot(torch.optim.Adam(module.parameters()))
    with pytest.raises(TypeError, match="cannot keep a int"):
        snapshot(3)


def test_the_state_of_another_shape_is_the_users_mistake():
    with pytest.raises(UserError, match=r"are not the run's.*size mismatch for 0.weight") as error:
        restore(network(), {**network().state_dict(), "0.weight": torch.zeros(5, 3)})
    assert "\n" not in str(error.value)


def test_file_holds_kinds_shapes_and_shared_memory(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    arrays = {
        "tied": weight,
        "again": weight,
        "transposed": weight.T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": np.zeros((0, 3)),
        "reversed": np.arange(4)[::-1],
        "words": np.array([1, 2**64 - 1], dtype=np.uint64),
        "flags": np.array(True),
    }
    tensors.write(tmp_path / "a", arrays, {"n": float("inf")})
    tensors.write(tmp_path / "b", dict(reversed(arrays.items())), {"n": float("inf")})
    back, about = tensors.read(tmp_path / "a")
    assert about == {"n": float("inf")} and back.keys() == arrays.keys()
    for name, value in arrays.items():
        assert type(back[name]) is type(value) and back[name].dtype == value.dtype and back[name].shape == value.shape
        assert (back[name] == value).all()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_trees_come_back():
    tree = {"a/b~": (torch.ones(1), {"0": np.zeros(2)}), "c": None, "d": ()}
    flat, tuples = tensors.flatten(tree)
    assert list(flat) == ["a~1b~0/0", "a~1b~0/1/0"]
    back = tensors.unflatten(flat, tuples)
    assert list(back) == ["a/b~"] and isinstance(back["a/b~"], tuple) and list(back["a/b~"][1]) == ["0"]
    with pytest.raises(TypeError, match="a tree holds"):
        tensors.flatten({"x": 3})
    many = tuple(torch.tensor(n) for n in range(12))
    assert tensors.unflatten(*tensors.flatten({"m": many}))["m"] == many
