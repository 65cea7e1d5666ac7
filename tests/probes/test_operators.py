"""Hand-over to SciPy and curvlinops."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg, eigsh
from torch import nn

from deepobs_func import probes, problems, tree
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Conv
from tests.probes.toys import conv_problem, dense_ggn, dense_hessian, flat, instance, toy, unflat, vector


def test_scipy_finds_the_same_eigenvalues_and_solutions() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    hessian = dense_hessian(lambda p: problem.loss(p, batch).mean(), params).numpy()
    operator = probes.as_scipy(problem, params, batch)
    assert operator.shape == hessian.shape
    assert operator.dtype == np.float64
    np.testing.assert_allclose(eigsh(operator, k=3, which="LA")[0], np.linalg.eigvalsh(hessian)[-3:], rtol=1e-8)
    columns = np.random.default_rng(0).normal(size=(len(hessian), 4))
    np.testing.assert_allclose(operator @ columns, hessian @ columns, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(operator.T @ columns[:, 0], hessian @ columns[:, 0], rtol=1e-9, atol=1e-11)
    ggn = dense_ggn(problem, params, batch).numpy()
    damped = probes.as_scipy(problem, params, batch, matrix="ggn") + probes.as_scipy(
        probes.LinearMap(lambda v: v, params)
    )
    solution, failed = cg(damped, columns[:, 0], rtol=1e-10)
    assert failed == 0
    np.testing.assert_allclose((ggn + np.eye(len(ggn))) @ solution, columns[:, 0], rtol=1e-7, atol=1e-8)


def test_scipy_takes_single_precision_where_the_parameters_are() -> None:
    problem = problems.get("mnist_logreg")
    operator = probes.as_scipy(problem, problem.init()[0], problem.fake_batch(2))
    assert operator.dtype == np.float32
    assert (operator @ np.ones(7850)).dtype == np.float32


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("kind", ["classifier", "vae", "coupled", "sequence"])
def test_curvlinops_has_the_same_products(kind: str, matrix) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    operator = probes.as_curvlinops(problem, params, batch, matrix=matrix)
    v = vector(params)
    ours = probes.hvp(problem, params, batch, v) if matrix == "hessian" else probes.ggnvp(problem, params, batch, v)
    torch.testing.assert_close(operator @ flat(v), flat(ours), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("name", ["mnist_logreg", "quadratic_deep", "tolstoi_char_rnn"])
def test_curvlinops_has_the_same_products_on_our_nets(name: str, matrix) -> None:
    problem = problems.get(name)
    params, batch = instance(problem, 2)
    operator = probes.as_curvlinops(problem, params, batch, matrix=matrix)
    v = vector(params)
    ours = probes.hvp(problem, params, batch, v) if matrix == "hessian" else probes.ggnvp(problem, params, batch, v)
    theirs = unflat(operator @ flat(v), params)
    assert tree.norm(tree.sub(theirs, ours)) <= 1e-9 * tree.norm(ours)


@pytest.mark.parametrize("matrix", ["kfac", "ekfac"])
def test_kfac_of_one_example_and_one_layer_is_the_ggn(matrix) -> None:
    problem = problems.get("mnist_logreg")
    params, batch = instance(problem, 1)
    options = {"fisher_type": "type-2", "separate_weight_and_bias": False}
    operator = probes.as_curvlinops(problem, params, batch, matrix=matrix, **options)
    v = vector(params)
    ours = probes.ggnvp(problem, params, batch, v)
    torch.testing.assert_close(operator @ flat(v), flat(ours), rtol=1e-8, atol=1e-10)


def test_kfac_of_our_convolutions_is_that_of_torch_s() -> None:
    import curvlinops

    problem = conv_problem()
    params, batch = instance(problem, 4)
    to_tensorflow_s_order = lambda z: z.permute(0, 2, 3, 1).flatten(1)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.pad = nn.Conv2d(3, 4, 3, padding=1), nn.ZeroPad2d((1, 2, 1, 2))
            self.conv2, self.dense = nn.Conv2d(4, 2, 4, stride=2, bias=False), nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.conv2(self.pad(torch.relu(self.conv1(x)))))
            return self.dense(to_tensorflow_s_order(x))

    plain = Plain().double()
    plain.load_state_dict(params)
    options = {"fisher_type": "type-2", "check_deterministic": False}
    theirs = curvlinops.KFACLinearOperator(
        plain, nn.CrossEntropyLoss(), [plain.get_parameter(n) for n in params], [(batch.x, batch.y)], **options
    )
    ours = probes.as_curvlinops(problem, params, batch, matrix="kfac", fisher_type="type-2")
    v = flat(vector(params))
    torch.testing.assert_close(ours @ v, theirs @ v, rtol=1e-9, atol=1e-12)


def test_the_parameters_and_the_net_are_left_alone() -> None:
    problem = conv_problem()
    params, batch = instance(problem, 4)
    before = {name: p.clone() for name, p in params.items()}
    operator = probes.as_curvlinops(problem, params, batch, matrix="kfac")
    operator @ flat(vector(params))
    assert all(torch.equal(before[name], p) and not p.requires_grad for name, p in params.items())
    assert isinstance(problem.net.conv1, Conv)
    assert all(tensor.is_meta for tensor in problem.net.state_dict().values())


def test_mistakes_say_what_is_allowed(monkeypatch) -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    with pytest.raises(ConfigError, match=r"Unknown matrix 'kfrac'\. Did you mean 'kfac'\?"):
        probes.as_curvlinops(problem, params, batch, matrix="kfrac")
    regressor, vae, normed, point = toy("regressor"), toy("vae"), conv_problem(norm=True), problems.get("two_d_beale")
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss is not the loss of regressor\. Pass loss="):
        probes.as_curvlinops(regressor, *instance(regressor), matrix="kfac")
    with pytest.raises(ConfigError, match=r"single tensor of outputs; those of vae are a VAEOutputs"):
        probes.as_curvlinops(vae, *instance(vae), matrix="kfac")
    with pytest.raises(ConfigError, match=r"kfac of curvlinops does not go with conv: .*un-supported layers"):
        probes.as_curvlinops(normed, *instance(normed), matrix="kfac")
    with pytest.raises(ConfigError, match="criterion without a GGN"):
        probes.as_curvlinops(point, *instance(point))
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with pytest.raises(ConfigError, match=r"needs curvlinops: pip install 'deepobs-func\[curvlinops\]'"):
        probes.as_curvlinops(problem, params, batch)
