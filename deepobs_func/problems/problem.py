"""A test problem as a frozen value with pure functions: data set + net + measure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.backend import kernels as kernels_of
from deepobs_func.base import Batch, Evaluation, Inputs, ModelState, Params, first_of
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.nets.calling import call
from deepobs_func.nets.describe import Description, describe
from deepobs_func.nets.layers import Layer, Pass
from deepobs_func.nets.noise import Noise, Place
from deepobs_func.probes.catalog import HVPMode
from deepobs_func.probes.ways import ALL, Ways
from deepobs_func.problems.measures import Measure
from deepobs_func.problems.modules import ProblemModule
from deepobs_func.problems.spec import Deviation, checked_weight_decay

Tensors = dict[str, Tensor]
Tap = Callable[[Layer, Tensor, Tensor], Tensor]


def call_with_pass(net: nn.Module, tensors: Tensors, x: Inputs, p: Pass) -> Any:
    """Calls one of this package's nets, which take the `Pass` besides their input."""
    return call(net, tensors, (x, p))


def draw_declared(net: nn.Module, key: random.Key, dtype: torch.dtype) -> tuple[Params, Tensors]:
    """Draws every tensor that the net's layers declare: `(params, moments)`, each from a key of its own."""

    def drawn(named: list[tuple[str, Tensor]], key: random.Key) -> Tensors:
        result = {}
        for index, (name, declared) in enumerate(named):
            path, _, leaf = name.rpartition(".")
            layer = net.get_submodule(path)
            assert isinstance(layer, Layer)
            result[name] = layer.initializers[leaf](random.fold_in(key, index), declared.shape, dtype)
        return result

    params_key, moments_key = random.split(key)
    return drawn(list(net.named_parameters()), params_key), drawn(list(net.named_buffers()), moments_key)


def kernels(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a kernel: of rank 2 or more."""
    return parameter.ndim >= 2


def convolutions(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the kernel of a convolution: of rank 4."""
    return parameter.ndim == 4


@dataclass(frozen=True)
class Problem:
    """A test problem: pure functions of explicit parameters, and no data.

    Everything differentiable is a function of `(params, batch)`; nothing is drawn, kept or switched inside.

    Attributes:
        name: as in `problems.names()`.
        dataset: what the data look like.
        make_net: makes the net, an `nn.Module` that only describes shapes.
        measure: the loss and the correctness of each example.
        weight_decay: the factor of the L2 penalty; None where the problem has none.
        separable: whether example n's training loss depends on example n alone.
        epochs, batch_size: the defaults of a run.
        deviations: quirks of DeepOBS 1.1.2 that concern this problem.
        draw: `(net, key, dtype) -> (params, moments)`, the initial distribution.
        call: `(net, tensors, x, pass) -> outputs`, how the net is called.
        regularize: `(name, parameter) -> bool`, which trained parameters the penalty counts; biases never.
        hvp_mode: the fastest way to a Hessian-vector product; see `probes.hvp`.
        compile_step: whether compiling a whole step is worth it, so that `auto` may.
        ways: which ways to its derivatives are right; all of them, unless it is made from a user's module.
        description: what the net is; made when it is None or of another net.
        regularized: the names of the trained parameters that the penalty counts, in order.
    """

    name: str
    dataset: DatasetSpec
    make_net: Callable[[], nn.Module]
    measure: Measure
    weight_decay: float | None
    separable: bool
    epochs: int
    batch_size: int
    deviations: tuple[Deviation, ...] = ()
    draw: Callable[[nn.Module, random.Key, torch.dtype], tuple[Params, Tensors]] = draw_declared
    call: Callable[[nn.Module, Tensors, Inputs, Pass], Any] = call_with_pass
    regularize: Callable[[str, Tensor], bool] = kernels
    compile_step: bool = True
    hvp_mode: HVPMode = "reverse-over-forward"
    ways: Ways = field(default=ALL, repr=False, compare=False)
    description: Description = field(default=None, repr=False, compare=False)  # type: ignore[assignment]  # see below
    regularized: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Describes the net once, here and not at first use, which may be inside a compiled function."""
        if self.weight_decay is not None:
            checked_weight_decay(self.weight_decay)
        if self.description is None or self.description.of != (self.make_net, self.call, self.dataset.shape):
            described = getattr(self.call, "describe", functools.partial(describe, self.call))
            object.__setattr__(self, "description", described(self.make_net, self.dataset.shape, self._two_inputs))
        trained = self.description.trained
        regularized = tuple(name for name, parameter in trained.items() if self.regularize(name, parameter))
        object.__setattr__(self, "regularized", regularized)

    def __reduce__(self) -> Any:
        """One of the registered problems is pickled by its name; another one as it is, without its description."""
        from deepobs_func import problems

        if self.name in problems.names() and self == problems.get(self.name).with_weight_decay(self.weight_decay):
            return _registered, (self.name, self.weight_decay)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "description"}
        return _rebuilt, (values,)

    def _two_inputs(self) -> Inputs:
        return self.dataset.function("fake")(self.dataset, random.key(0), 2, torch.get_default_dtype())[0]

    @property
    def net(self) -> nn.Module:
        """The net on the meta device: shapes and no data."""
        return self.description.net

    @property
    def noises(self) -> dict[str, Noise | Place]:
        """What reads a draw from the batch, by the name of their entry in `batch.noise`."""
        return self.description.noises

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Of the trained parameters, by name: what `init` returns."""
        return self.description.shapes

    @property
    def layers(self) -> dict[str, tuple[Layer, torch.Size]]:
        """The layers that know their per-example gradients, by path, with the shape of one example's output."""
        return self.description.layers

    @property
    def normalizes(self) -> bool:
        """Whether the net has batch norm."""
        return self.description.normalizes

    @property
    def synchronises(self) -> bool:
        """Whether its batch norm can take the statistics of all processes' shards: where it is of this package's."""
        return self.call is call_with_pass

    @property
    def in_blocks(self) -> bool:
        """Whether the net is a sequence of blocks that can be computed anew in the backward pass."""
        return self.call is call_with_pass and getattr(self.net, "in_blocks", False)

    @property
    def has_accuracy(self) -> bool:
        """Whether `evaluate` returns which examples are correct."""
        return self.measure.correct is not None

    def init(
        self,
        seed: int | random.Key = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> tuple[Params, ModelState]:
        """The parameters and the model state at the start of a run.

        Args:
            seed: a whole number, or a key (then its device holds the result and `device` is not read).
            dtype: of all floating-point tensors.
            device: where they live.

        Returns:
            `params`, in DeepOBS's order, and `ModelState(moments, {})`: an empty carry means zeros.
        """
        key = seed if isinstance(seed, Tensor) else random.key(seed, device)
        params, moments = self.draw(self.net, random.fold_in(key, random.INIT), dtype)
        return params, ModelState(moments, {})

    def loss_and_state(self, params: Params, batch: Batch) -> tuple[Float[Tensor, " B"], ModelState]:
        """The training-phase loss of each example, and the model's state after the batch.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            The losses `(B,)`, without the penalty, and the state.
        """
        losses, _, state = self._losses_and_state(params, batch, train=True)
        return losses, state

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, " B"]:
        """The training-phase loss of each example, without the penalty.

        Pure: it draws nothing and keeps nothing, so it is the same function for a gradient, a line search, a Hessian
        product and, on separable problems, a per-example gradient.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            `(B,)`.

        Raises:
            RuntimeError: a parameter or a moment is missing or unknown.
        """
        return self.loss_and_state(params, batch)[0]

    def penalty(self, params: Params) -> Float[Tensor, ""]:
        """The L2 term: `weight_decay / 2 * sum over kernels |W|^2`; 0 where the problem has none."""
        total = next(iter(params.values())).new_zeros(())
        if self.weight_decay is None:
            return total
        for name in self.regularized:
            total = torch.add(total, params[name].square().sum(), alpha=0.5 * self.weight_decay)
        return total

    def objective(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        """What an optimizer minimises: `loss(params, batch).mean() + penalty(params)`."""
        return self.loss(params, batch).mean() + self.penalty(params)

    def outputs(self, params: Params, batch: Batch) -> Any:
        """The net's training-phase outputs: `loss(params, batch) = criterion(outputs(params, batch), batch)`."""
        return self._forward(params, batch, train=True)[0]

    def criterion(self, outputs: Any, batch: Batch) -> Float[Tensor, " B"]:
        """The loss of each example as a function of the net's outputs, as a GGN splits it.

        Args:
            outputs: a pytree, as `outputs` returns it.
            batch: the batch of the outputs.

        Returns:
            `(B,)`.
        """
        return self.measure.losses(outputs, batch)

    def evaluate(self, params: Params, batch: Batch) -> Evaluation:
        """The test-phase twin of `loss`: no dropout, running moments, the VAE's noise as the batch has it.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            The loss of each example `(B,)`, without the penalty, and whether it is correct.
        """
        return self.evaluate_and_state(params, batch)[0]

    def evaluate_and_state(self, params: Params, batch: Batch) -> tuple[Evaluation, ModelState]:
        """The test-phase twin of `loss_and_state`.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            The evaluation, and the state after the batch: it carries an LSTM on; moments stay.
        """
        losses, outputs, state = self._losses_and_state(params, batch, train=False)
        correct = self.measure.correct
        return Evaluation(losses, None if correct is None else correct(outputs, batch)), state

    def test_outputs_and_state(self, params: Params, batch: Batch) -> tuple[Any, ModelState]:
        """The net's outputs in the test phase.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            The outputs, and the state after the batch.
        """
        return self._forward(params, batch, train=False)

    def loss_by_moments(self, params: Params, batch: Batch) -> Float[Tensor, " B"]:
        """The training-phase loss with batch norm by `state.moments`, so that it couples no examples.

        Under the moving moments that is a net in its test phase except for dropout; under `batch_moments`, a net whose
        batch statistics are held constant. The same as `loss` where there is no batch norm.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            `(B,)`.
        """
        p = self._pass(batch, train=True, by_moments=True)
        return self.measure.losses(self._called(params, batch, p), batch)

    def tapped_outputs(self, params: Params, batch: Batch, tap: Tap) -> Any:
        """The outputs of `loss_by_moments`, with the output of each of `layers` replaced.

        What per-example statistics are made of: the inputs of the layers, and the gradients of their outputs.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.
            tap: `(layer, input, output) -> output`, called for each of `layers`.

        Returns:
            The outputs, a pytree.
        """
        return self._called(params, batch, self._pass(batch, train=True, by_moments=True, tap=tap))

    def batch_moments(self, params: Params, batch: Batch) -> ModelState:
        """The state with the batch's own mean and biased variance instead of the moving ones, as constants.

        Args:
            params: the trainable parameters, as `init` returns them.
            batch: inputs, targets, noise and model state.

        Returns:
            The state.
        """
        p = self._pass(batch, train=True)
        self._called(params, batch, p)
        return batch.state._replace(moments={**batch.state.moments, **p.batch_moments})

    def draw_noise(self, key: random.Key, batch_size: int, *, train: bool = True) -> Tensors:
        """Draws `batch.noise`: keep-masks, the VAE's epsilon; each with a leading `B`, each from a key of its own.

        Args:
            key: the same key gives the same noise on every device.
            batch_size: B.
            train: the training phase; the test phase leaves out dropout.

        Returns:
            A draw for each layer that reads one, by its path.
        """
        wanted = {
            path: layer for path, layer in self.noises.items() if (layer.in_training if train else layer.in_evaluation)
        }
        if not wanted:  # a hash of nothing takes 0.2 ms too
            return {}
        keys = dict(
            zip(self.noises, random.fold_in(key, torch.arange(len(self.noises), device=key.device)), strict=True)
        )
        return {path: layer.draw(keys[path], batch_size) for path, layer in wanted.items()}

    def zero_carry(
        self, batch_size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensors:
        """The recurrent state at the start of a pass over the data.

        Args:
            batch_size: B.
            dtype: of the zeros.
            device: where they live.

        Returns:
            `(B, ...)` zeros by name; empty for nets without a recurrent layer.
        """
        return {
            f"{path}.{name}": torch.zeros(batch_size, *shape, dtype=dtype, device=device)
            for path, layer in self.net.named_modules()
            if isinstance(layer, Layer)
            for name, shape in layer.carried.items()
        }

    def fake_batch(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Batch:
        """A random batch of the right shapes and ranges, with noise and the initial state. It needs no data on disk.

        Args:
            batch_size: B.
            seed: the same seed gives the same batch.
            dtype: of all floating-point tensors.
            device: where they live.

        Returns:
            The batch.
        """
        x_key, noise_key = random.split(random.key(seed, device))
        x, y = self.dataset.function("fake")(self.dataset, x_key, batch_size, dtype)
        state = ModelState({}, {})
        if self.description.remembers:  # else there are no moments to draw
            _, state = self.init(seed, dtype=dtype, device=device)
        return Batch(x, y, self.draw_noise(noise_key, batch_size), state)

    def with_weight_decay(self, weight_decay: float | None) -> Problem:
        """The same problem with another L2 factor.

        Args:
            weight_decay: 0 or more; None keeps the problem's own.

        Returns:
            Another problem, or this one.

        Raises:
            ConfigError: the problem has no penalty, or the factor is negative or not finite.
        """
        if weight_decay is None:
            return self
        if self.weight_decay is None:
            raise ConfigError(f"{self.name} has no L2 penalty, so it takes no weight decay (given: {weight_decay}).")
        return replace(self, weight_decay=weight_decay)

    def to_module(self, params: Params, state: ModelState | None = None) -> nn.Module:
        """An ordinary module at these parameters, whose memory it shares.

        Args:
            params: the trainable parameters, as `init` returns them.
            state: where batch norm and the like have their running statistics from; the initial one by default.

        Returns:
            Of a problem made of a module: that module, `x -> outputs`, in the layout of its own `state_dict`. Of one of
            this package's: its net with torch's layers, `batch -> outputs`, as `batch_module`.
        """
        rebuild = getattr(self.call, "rebuilt", None)
        return self.batch_module(params) if rebuild is None else rebuild(params, (state or self.init()[1]).moments)

    def batch_module(self, params: Params) -> nn.Module:
        """The training-phase outputs at these parameters as a module, `batch -> outputs`; see `problems.modules`."""
        return ProblemModule(self.net, self.call, params)

    def _pass(
        self, batch: Batch, *, train: bool, by_moments: bool = False, tap: Tap | None = None, shared: bool = False
    ) -> Pass:
        how = kernels_of.current()
        recompute = how.recompute and how.fused and train and tap is None and torch.is_grad_enabled()
        flags = (how.fused, how.onednn, by_moments, tap, shared, how.ranks, recompute)
        return Pass(train, batch.noise, batch.state.carry, *flags)

    def _called(self, params: Params, batch: Batch, p: Pass) -> Any:
        tensors = {**params, **batch.state.moments}
        autocast = kernels_of.current().autocast
        if autocast is None:
            return self.call(self.net, tensors, batch.x, p)
        device = first_of(batch.x).device.type
        with torch.autocast(device, autocast, cache_enabled=False):  # a cache outlives a transform
            outputs = self.call(self.net, tensors, batch.x, p)
        dtype = next(iter(params.values())).dtype
        widened = lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        outputs, p.moments, p.carry = pytree.tree_map(widened, (outputs, p.moments, p.carry))
        return outputs

    def _forward(self, params: Params, batch: Batch, *, train: bool, shared: bool = False) -> tuple[Any, ModelState]:
        p = self._pass(batch, train=train, shared=shared)
        outputs = self._called(params, batch, p)
        return outputs, ModelState({**batch.state.moments, **p.moments}, p.carry)

    def _losses_and_state(self, params: Params, batch: Batch, *, train: bool) -> tuple[Tensor, Any, ModelState]:
        """The losses, the outputs as they were made for them, and the state after the batch."""
        fused = self.measure.fused if kernels_of.current().fused else None
        shared = fused is not None and (train or self.measure.correct is None)
        outputs, state = self._forward(params, batch, train=train, shared=shared)
        return (fused or self.measure.losses)(outputs, batch), outputs, state


def _registered(name: str, weight_decay: float | None) -> Problem:
    from deepobs_func import problems

    return problems.get(name).with_weight_decay(weight_decay)


def _rebuilt(values: dict[str, Any]) -> Problem:
    return Problem(**values)
