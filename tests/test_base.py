import pytest
import torch

from deepobs_func.base import BATCH_DIMS, Batch, ModelState, one_example
from deepobs_func.datasets.loading import Split
from deepobs_func.problems.oracle import Metrics
from deepobs_func.runner.step import Carry, StepInput

B = 5


def normals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def toy_params():
    return {"w": normals(3), "b": normals()}


def toy_batch():
    """A batch with all its parts: noise, moments without a batch axis, a carry with one."""
    state = ModelState({"center": normals(3)}, {"lstm.h": normals(B, 2, 3)})
    return Batch.of(normals(B, 3), normals(B), {"mask": normals(B, 3) > 0}, state)


def toy_loss(params, batch):
    """Coupled to nothing but its own example, and reading every part of it."""
    hidden = torch.where(batch.noise["mask"], batch.x - batch.state.moments["center"], 0.0)
    recurrent = batch.state.carry["lstm.h"].sum(1)
    return (((hidden + recurrent) * params["w"]).sum(-1) + params["b"] - batch.y) ** 2


def rows(batch, n):
    """Example `n` as a batch of one, cut out by hand."""
    carry = {name: value[n : n + 1] for name, value in batch.state.carry.items()}
    noise = {name: value[n : n + 1] for name, value in batch.noise.items()}
    return Batch(batch.x[n : n + 1], batch.y[n : n + 1], noise, ModelState(batch.state.moments, carry))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_what_is_left_out_of_a_batch_is_neutral(dtype):
    batch = Batch.of(torch.zeros(4, 2, dtype=dtype))
    assert (batch.y.shape, batch.y.dtype) == ((4, 0), dtype)
    assert batch.noise == {}
    assert batch.state == ModelState({}, {})


def test_what_is_given_to_a_batch_is_kept():
    x, y, mask = torch.zeros(4, 2), torch.arange(4), torch.ones(4, 2)
    state, noise = ModelState({"mean": torch.ones(2)}, {}), {"mask": mask}
    batch = Batch.of(x, y, noise, state)
    noise.clear()  # the caller's dict is the caller's
    assert batch.x is x
    assert batch.y is y
    assert batch.noise["mask"] is mask
    assert batch.state is state


def test_batches_share_no_defaults():
    first, second = Batch.of(torch.zeros(1)), Batch.of(torch.zeros(1))
    first.noise["mask"] = torch.ones(1)
    first.state.moments["mean"] = torch.ones(1)
    assert second.noise == {}
    assert second.state.moments == {}


def test_one_example_under_vmap_equals_a_loop():
    params, batch = toy_params(), toy_batch()
    vmapped = torch.func.vmap(one_example(toy_loss), in_dims=(None, BATCH_DIMS))(params, batch)
    looped = torch.cat([toy_loss(params, rows(batch, n)) for n in range(B)])
    torch.testing.assert_close(vmapped, looped, rtol=1e-14, atol=0.0)


def test_per_example_gradients_equal_a_loop_of_backward_passes():
    params, batch = toy_params(), toy_batch()
    grads = torch.func.vmap(torch.func.grad(one_example(toy_loss)), in_dims=(None, BATCH_DIMS))(params, batch)
    for n in range(B):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        toy_loss(leaves, rows(batch, n)).sum().backward()
        for name, leaf in leaves.items():
            torch.testing.assert_close(grads[name][n], leaf.grad, rtol=1e-13, atol=0.0)


def test_an_empty_batch_state_has_no_axes_to_map():
    batch = Batch.of(normals(B, 3))
    loss = one_example(lambda params, batch: (batch.x * params["w"]).sum(-1) + batch.y.sum(-1))
    vmapped = torch.func.vmap(loss, in_dims=(None, BATCH_DIMS))(toy_params(), batch)
    torch.testing.assert_close(vmapped, batch.x @ toy_params()["w"], rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("kind", [Batch, ModelState, Split, Carry, StepInput, Metrics])
def test_what_code_that_is_traced_gets_has_no_properties(kind):
    """Dynamo 2.9 traces no property of a named tuple: a function takes its place, such as `size_of`."""
    assert not [name for name, value in vars(kind).items() if isinstance(value, property)]
