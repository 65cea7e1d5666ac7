"""What DeepOBS's runner prints of a run."""

from __future__ import annotations

from deepobs_func.runner.callbacks import last
from deepobs_func.runner.events import Evaluated, Event, Logged

_LINE = "*" * 32


class Printer:
    """A callback that prints the evaluations, and the mini-batch losses if they are wanted.

    Args:
        print_train_iter: whether recorded mini-batch losses are printed, without the penalty.
    """

    def __init__(self, print_train_iter: bool) -> None:
        self._prints_losses = print_train_iter

    def __call__(self, event: Event) -> None:
        """Prints what the event brings."""
        if isinstance(event, Evaluated):
            self._print_evaluation(event)
        elif isinstance(event, Logged) and self._prints_losses:
            interval, first = event.plan.config.train_log_interval, event.step - len(event.losses)
            for step, loss in enumerate(event.losses.tolist(), first):
                if step % interval == 0:
                    print(f"Epoch {event.epoch}, step {step}: loss {loss:g}")

    def _print_evaluation(self, event: Evaluated) -> None:
        found = last(event.log)
        print(_LINE)
        print(f"Evaluating after {event.epoch} of {event.plan.epochs} epochs...")
        for split in ("train", "test"):
            accuracy = f", acc {found[f'{split}_accuracy']:f}" if f"{split}_accuracy" in found else ""
            print(f"{split.upper()}: loss {found[f'{split}_loss']:g}{accuracy}")
        print(_LINE)
