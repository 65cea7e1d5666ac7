"""The training step alone, on a batch that lies on the device: ours beside the same net as a compiled `nn.Module`.

    python -m benchmarks.steps [--problems mnist_mlp ...] [--threads 1 2] [--rounds 15] [--quick]

Ours is `runner.make_step` with SGD, the drawing of noise included, in eager code and compiled as a whole, in the memory
format that a run would take: the faster one in eager code. The other is the plain module with `torch.compile` on the
loss, so that both passes are compiled, and `torch.optim.SGD`: its loop, its fused kernel, or its step compiled too; and
with its channels last in memory where ours has them so. Memory is the peak during a step, with parameters and moments
held. What is achieved is the share of the operations a second that a large product of matrices does in its turn.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain, recording, tables
from benchmarks.memory import peak_bytes
from benchmarks.peak import Peak, operations
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.shares import BATCH_SIZES, MODERN, learning_rate
from benchmarks.tables import Target
from benchmarks.timing import clock_for, interleaved
from deepobs_func import optimizers, problems, random
from deepobs_func.backend import onednn
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import make_step
from deepobs_func.runner.measuring import LEAST_GAIN
from deepobs_func.runner.step import Carry, laid_out

PROBLEMS = (
    *("mnist_logreg", "mnist_mlp", "mnist_2c2d", "mnist_vae", "cifar10_3c3d", "cifar100_allcnnc", "svhn_wrn164"),
    *("tolstoi_char_rnn", "quadratic_deep", "two_d_rosenbrock"),
    *MODERN,
)
BUDGET = 10.0  # seconds for the steps of each that takes part
MOST = 1.05  # times the time and the memory of the compiled module
SMALL = 1 / 16  # mebibytes, below which a few numbers more are no matter
OURS, MODULE = "ours", "module"
UPDATES = ("loop", "fused", "compiled")  # of SGD
PRODUCT = "product"  # the measure of what the device does at most
QUICK_BATCH, QUICK_SIDE = 8, 64


class OurStep:
    """A functional step that goes on from where it is; what it replaces is held until it is done, as in a run.

    Args:
        problem: which.
        batch_size: B.
        device: where.
        compile: the step; its noise is drawn outside of it, and oneDNN multiplies where it is faster, as in a run.
        channels_last: of images and kernels in memory.
    """

    def __init__(
        self, problem: Problem, batch_size: int, device: torch.device, *, compile: bool, channels_last: bool = False
    ) -> None:
        multiplies = onednn.is_faster(device, problem.init(0)[0])
        optimizer = optimizers.sgd(learning_rate(problem))
        step = make_step(problem, optimizer, plain=not compile)

        def whole(carry: Carry, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> Any:
            return step(carry, Batch(x, y, noise, carry.state))

        self._problem, self._batch_size = problem, batch_size
        self._step = compiled(whole, problem, onednn=multiplies) if compile else whole
        self._kernels = using(onednn=multiplies)
        keys = random.split(random.key(1, device), 100)
        self._keys = itertools.cycle(keys.unbind())
        placed = laid_out if channels_last else lambda tensor: tensor
        x, self._y = problem.fake_batch(batch_size, seed=0, device=device)[:2]
        self._x = placed(x)
        params, state = problem.init(seed=0, device=device)
        state = state._replace(carry=problem.zero_carry(batch_size, device=device))
        params = {name: placed(leaf) for name, leaf in params.items()}
        self._carry = Carry(params, optimizer.init(params, keys[0]), state)

    def __call__(self) -> None:
        with random.compiled_draws():
            noise = self._problem.draw_noise(next(self._keys), self._batch_size) if self._problem.noises else {}
        with self._kernels:
            self._carry, _ = self._step(self._carry, self._x, self._y, noise)

    def peak(self) -> int:
        """The most bytes at once during a step, what is carried from step to step included."""
        return peak_bytes(self) + _bytes(_tensors(self._carry))


class ModuleStep:
    """A step of a plain module.

    Args:
        problem: which.
        batch_size: B.
        device: where.
        compile: whether the loss is compiled, with its backward pass.
        update: `"loop"`, `"fused"` or `"compiled"`: how SGD steps.
        channels_last: of images and kernels in memory.
    """

    def __init__(
        self,
        problem: Problem,
        batch_size: int,
        device: torch.device,
        *,
        compile: bool,
        update: str = "loop",
        channels_last: bool = False,
    ) -> None:
        memory = torch.channels_last if channels_last else torch.contiguous_format
        self.module = plain.module(problem.name).to(device, memory_format=memory).train()
        options = {"fused": True} if update == "fused" else {}
        self.optimizer = plain.sgd(self.module, problem, learning_rate(problem), **options)
        batch = problem.fake_batch(batch_size, seed=0, device=device)
        self._x, self._y = laid_out(batch.x) if channels_last else batch.x, batch.y
        self._loss: Callable[[Tensor, Tensor], Tensor] = self.module.loss
        self._update: Callable[[], Any] = self.optimizer.step
        if compile:
            self._loss = torch.compile(self.module.loss, dynamic=False)
        if update == "compiled":
            self._update = torch.compile(self.optimizer.step, dynamic=False)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._loss(self._x, self._y).backward()
        self._update()

    def peak(self) -> int:
        """The most bytes at once during a step, parameters and buffers included."""
        self.optimizer.zero_grad(set_to_none=True)  # what is freed in the step would not be counted
        return peak_bytes(self) + _bytes([*self.module.parameters(), *self.module.buffers()])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def steps(problem: Problem, batch_size: int, device: torch.device, last: bool) -> dict[str, OurStep | ModuleStep]:
    """Everything that takes turns, ours with its channels last or not. A step that a run never compiles is eager."""
    ours = functools.partial(OurStep, problem, batch_size, device, channels_last=last)
    module = functools.partial(ModuleStep, problem, batch_size, device)
    found: dict[str, OurStep | ModuleStep] = {f"{OURS}, eager": ours(compile=False)}
    if problem.compile_step:
        found[f"{OURS}, compiled"] = ours(compile=True)
    found[f"{MODULE}, eager"] = module(compile=False)
    for update in UPDATES:
        found[f"{MODULE}, compiled, {update}"] = module(compile=True, update=update)
    if last:
        found[f"{MODULE}, compiled, fused, channels last"] = module(compile=True, update="fused", channels_last=True)
    return found


def channels_last(problem: Problem, batch_size: int, device: torch.device) -> bool:
    """Whether a run would have them last: an eager step is faster so, by the measure of `runner.choice`."""
    if all(leaf.ndim != 4 for leaf in problem.init(seed=0)[0].values()):
        return False
    calls = {last: OurStep(problem, batch_size, device, compile=False, channels_last=last) for last in (False, True)}
    for call in calls.values():
        call()
    times = interleaved(calls, 3, clock_for(torch.get_num_threads(), device.type), budget=BUDGET)
    return times[True].median < LEAST_GAIN * times[False].median


def measure(name: str, settings: Settings) -> Run:
    """Times and peak memory of one problem's step."""
    torch.set_num_threads(settings.threads)
    problem, device = problems.get(name), recording.device()
    batch_size = QUICK_BATCH if settings.quick else BATCH_SIZES.get(name, problem.batch_size)
    last = channels_last(problem, batch_size, device)
    found = steps(problem, batch_size, device, last)
    for step in found.values():
        step()
        step()
    peaks = {by: step.peak() for by, step in found.items()}
    most, needed = Peak(device, QUICK_SIDE if settings.quick else None), operations(problem, batch_size, device)
    calls = {**found, PRODUCT: most}
    times = interleaved(calls, settings.rounds, clock_for(settings.threads, device.type), budget=BUDGET)
    reference = min((by for by in found if by.startswith(f"{MODULE}, compiled")), key=lambda by: times[by].median)
    rows = [
        {
            "by": by,
            "reference": by == reference,
            "ratio": round(times[by].ratio(times[reference]), 3),
            "quartiles": [round(each, 3) for each in times[by].spread(times[reference])],
            "milliseconds": round(1e3 * times[by].median, 4),
            "memory_ratio": round(peaks[by] / peaks[reference], 3),
            "peak_mebibytes": round(peaks[by] / 2**20, 4),
            "achieved": round(needed / most.operations / times[by].ratio(times[PRODUCT]), 4),
        }
        for by in found
    ]
    return {"batch_size": batch_size, "device": device.type, "channels_last": last, "rows": rows}


def ours(run: Run) -> dict[str, Any]:
    """Our row that counts: the compiled step, or the eager one where a run never compiles it."""
    rows = {row["by"]: row for row in run["rows"]}
    return rows.get(f"{OURS}, compiled", rows[f"{OURS}, eager"])


def targets(run: Run) -> list[Target]:
    """The functional design costs nothing."""
    row = ours(run)
    memory = min(row["memory_ratio"], row["peak_mebibytes"] / SMALL)
    return [
        Target("times as long as the compiled module:", row["ratio"], MOST, least=False),
        Target("times the memory of the compiled module:", memory, MOST, least=False),
    ]


def report(run: Run) -> str:
    """Ratios to the fastest version of the compiled module, and whether the targets are met."""
    lines = [
        [
            row["by"],
            tables.ratio(row),
            *(f"{row[what]:.4g}" for what in ("milliseconds", "memory_ratio", "peak_mebibytes")),
            f"{row['achieved']:.1%}",
        ]
        for row in run["rows"]
    ]
    header = [tables.heading(run, f"a batch of {run['batch_size']}"), "time", "ms", "peak memory", "MiB", "achieved"]
    return f"{tables.table(header, lines)}\n{tables.verdicts(targets(run))}\n"


def summary(runs: list[Run]) -> str:
    """All problems in one table, in units of the compiled module."""
    lines = []
    for run in runs:
        rows = {row["by"]: row for row in run["rows"]}
        row, verdict = ours(run), targets(run)
        lines.append(
            [
                run["problem"],
                str(run["threads"]),
                f"{row['milliseconds']:.3g} ms",
                tables.ratio(row),
                f"{row['memory_ratio']:.2f}",
                f"{row['achieved']:.0%}",
                *(f"{rows[f'{by}, eager']['ratio']:.2f}" for by in (OURS, MODULE)),
                "met" if all(target.met for target in verdict) else "missed",
            ]
        )
    header = ["", "threads", "ours, a step", "time", "memory", "of the peak", "ours, eager", "module, eager", "targets"]
    return tables.table(header, lines)


BENCHMARK = Benchmark("steps", PROBLEMS, measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
