"""How a converted module is called: its training phase and its test phase are two copies of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepobs_func.backend.generators import kept
from deepobs_func.base import Inputs, arguments_of, map_inputs
from deepobs_func.errors import ConfigError
from deepobs_func.nets.describe import Description
from deepobs_func.nets.layers import Layer, Pass
from deepobs_func.nets.noise import Place
from deepobs_func.nets.ties import call_tied, places_of
from deepobs_func.probes.formulas import exactly
from deepobs_func.problems.conversion.base import LATER, TEST, Converted, place_of
from deepobs_func.problems.conversion.functions import NAMES, Drawing
from deepobs_func.problems.conversion.norms import BatchNorm
from deepobs_func.problems.conversion.passing import passing, under_way
from deepobs_func.problems.conversion.table import PURE, convert
from deepobs_func.problems.description import Tensors, on_meta
from deepobs_func.problems.modules import copied

SIZES = (2, 3)  # of the batches by which it is found where the examples are


class Heard(NamedTuple):
    """What one pass showed.

    Attributes:
        drawn: how and in which shape each place drew.
        shapes: of input and output of each layer that knows its per-example gradients, by path.
        calls: how often each of these layers was called.
        places: how often each place drew, and each batch norm normalised.
    """

    drawn: dict[str, tuple[Any, tuple[int, ...]]]
    shapes: dict[str, tuple[torch.Size, torch.Size]]
    calls: Counter[str]
    places: dict[str, int]


@dataclass(frozen=True, eq=False)
class Phases:
    """The call of a problem that is made of a module, `(net, tensors, x, pass) -> outputs`.

    Attributes:
        stock: the module on meta, as the user gave it.
        test: its converted copy in `eval()`; the net of the training phase comes with each call.
        start: initial values, with which it is listened to.
        tensors: the places of its tensors, and their names; see `nets.ties`.
        draws: whether its own `forward` methods call functions of torch that draw.
        reads_pass: whether a layer reads the pass under way, also where nobody listens. A net of pure layers does not.
        exact: whether operations of torch without right derivatives are computed by formulas, but for fused kernels.
        places: where these functions draw, by name.
        failures: what it raised where it was listened to; then nothing is known of what it draws.
    """

    stock: nn.Module
    test: nn.Module
    start: Tensors
    tensors: dict[str, str]
    draws: bool
    reads_pass: bool = True
    exact: bool = False
    places: dict[str, Place] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)

    def __call__(self, net: nn.Module, tensors: Tensors, x: Inputs, p: Pass) -> Any:
        net = net if p.train else self.test
        draws = Drawing(self.places) if self.draws else nullcontext()
        formulas = exactly() if self.exact and not p.fused else nullcontext()
        held = under_way(p) if self.reads_pass or p.tap is not None else nullcontext()
        with held, formulas, draws:
            return call_tied(net, self.tensors, tensors, *arguments_of(x))

    def rebuilt(self, params: Tensors, moments: Tensors) -> nn.Module:
        """The user's module at these values."""
        memo: dict[int, Any] = {
            id(leaf): nn.Parameter(params[name].detach())
            if name in params
            else nn.Parameter(moments[name], requires_grad=False)
            for name, leaf in self.stock.named_parameters()
        }
        memo |= {id(leaf): moments[name] for name, leaf in self.stock.named_buffers()}
        return copied(self.stock, memo)

    def describe(self, make_net: Callable[[], nn.Module], shape: Any, x: Callable[[], Inputs]) -> Description:
        """What the net is, found by passes of a few examples; see `nets.describe`."""
        net = make_net()
        two = x()
        inputs = (two, map_inputs(lambda leaf: torch.cat((leaf, leaf[:1])), two))
        layers: dict[str, tuple[Layer, torch.Size]] = {}
        noises: dict[str, Place] = {}
        try:
            passes = listened(net, self.start, inputs, train=True)
            layers = _known(net, passes)
            _count_norms(net, passes)
            noises |= self._placed(net, passes, in_evaluation=False)
            if self.test is not net:
                tests = listened(self.test, self.start, inputs, train=False)
                noises |= self._placed(self.test, tests, in_evaluation=True)
        except ConfigError:
            raise
        except Exception as error:  # whatever a user's code raises; where that is a mistake, it will be said as one
            self.failures.append(error)
        trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        return Description(
            net=net,
            noises=dict(noises),
            shapes={name: parameter.shape for name, parameter in trained.items()},
            layers=layers,
            normalizes=any(isinstance(module, Layer) and module.normalizes for module in net.modules()),
            of=(make_net, self, shape),
        )

    def _placed(self, net: nn.Module, passes: list[Heard], *, in_evaluation: bool) -> dict[str, Place]:
        """Where a net draws; its layers are told."""
        owners = {module.path: module for module in net.modules() if isinstance(module, Converted)}
        found: dict[str, Place] = {}
        for name, (how, first) in passes[0].drawn.items():
            shapes = [heard.drawn[name][1] if name in heard.drawn else () for heard in passes]
            place = Place.of(how, shapes, SIZES, in_evaluation=in_evaluation)
            owner = owners.get(place_of(name))
            if place is None:
                where = f"The layer {owner.path!r}" if owner else "The module's forward method"
                raise ConfigError(
                    f"{where} draws numbers of the shape {first} for a batch of {SIZES[0]} and {shapes[1]} for one of "
                    f"{SIZES[1]}, in which the examples have no axis of their own. Let it draw a tensor with an axis "
                    "of the batch's length, or of a multiple of it, example by example."
                )
            found[name] = place
            (self.places if owner is None else owner.places)[name] = place
        return found


def listened(net: nn.Module, start: Tensors, inputs: tuple[Inputs, ...], *, train: bool) -> list[Heard]:
    """Passes through a copy of a net, one for each input; what it raises comes through.

    With values, of a few examples: a forward method may look at them, and meta tensors take ten times as long through
    what torch has in Python for them.
    """
    with kept(), torch.no_grad():
        return [_heard(copied(net, {}), _cloned(start), x, train=train) for x in inputs]


def _cloned(tensors: Tensors) -> Tensors:
    return {name: leaf.detach().clone() for name, leaf in tensors.items()}


def _heard(net: nn.Module, tensors: Tensors, x: Inputs, *, train: bool) -> Heard:
    heard = Heard({}, {}, Counter(), {})

    def tap(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        heard.calls[layer.path] += 1
        heard.shapes[layer.path] = x.shape, y.shape
        return y

    with passing(Pass(train, {}, {}, tap=tap, drawn=heard.drawn, calls=heard.places)), Drawing({}):
        call_tied(net, places_of(net), tensors, *arguments_of(x))
    return heard


def _known(net: nn.Module, passes: list[Heard]) -> dict[str, tuple[Layer, torch.Size]]:
    """The layers that know their per-example gradients: called once, with the examples in front."""
    layers = {module.path: module for module in net.modules() if isinstance(module, Converted)}
    found: dict[str, tuple[Layer, torch.Size]] = {}
    first, second = passes
    for path, shapes in first.shapes.items():
        once = first.calls[path] == second.calls[path] == 1
        in_front = once and all(
            a[0] == SIZES[0] and b[0] == SIZES[1] and a[1:] == b[1:]
            for a, b in zip(shapes, second.shapes[path], strict=True)
        )
        if in_front and layers[path].taken:
            found[path] = layers[path], shapes[1][1:]
        else:
            layers[path].taken = ()
    return found


def _draws_by_functions(nets: tuple[tuple[nn.Module, bool], ...], start: Tensors, x: Inputs) -> bool:
    """Whether functions of torch draw in the `forward` methods of some nets, each with whether it is in training.

    So they may where one cannot be listened to: what it raises is the same in the first check of the problem, which
    says it.
    """
    try:
        return any(
            place_of(name) in NAMES
            for net, train in nets
            for heard in listened(net, start, (x,), train=train)
            for name in heard.drawn
        )
    except Exception:  # whatever a user's code raises
        return True


def _count_norms(net: nn.Module, passes: list[Heard]) -> None:
    """Where a batch norm is called twice, no moments of the batch stand for those of both calls."""
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    if any(heard.places.get(norm.path, 0) > 1 for norm in norms for heard in passes):
        for norm in norms:
            norm.coupled_anyway = True


def _check_names(net: nn.Module) -> None:
    """Refuses names of layers that are those of other draws."""
    paths = [module.path for module in net.modules() if isinstance(module, Converted)]
    wrong = [path for path in paths if place_of(path) != path or path in NAMES]
    if wrong:
        raise ConfigError(
            f"The layers {wrong} have names that draws have in batch.noise: {TEST!r} begins those of the test phase, "
            f"{LATER!r} stands before the number of a later draw, and {sorted(NAMES)} are functions. Name them "
            "otherwise."
        )


def converted(module: nn.Module, start: Tensors, x: Inputs) -> tuple[nn.Module, Phases]:
    """A module's net of the training phase, on meta, and how it is called in both phases.

    Args:
        module: of the user's; it is not touched.
        start: initial values of its tensors.
        x: an input of a few examples.

    Raises:
        ConfigError: the module cannot be copied, or has layers with names of other draws.
    """
    stock = on_meta(module)
    train = convert(on_meta(module))
    _check_names(train)
    test = convert(on_meta(module).eval()) if any(part.training for part in module.modules()) else train
    nets = ((train, True),) if test is train else ((train, True), (test, False))
    draws = _draws_by_functions(nets, start, x)
    layers = (module for net, _ in nets for module in net.modules() if isinstance(module, Converted))
    reads = draws or not all(isinstance(layer, PURE) for layer in layers)
    return train, Phases(stock, test, start, places_of(stock), draws, reads)
