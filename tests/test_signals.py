"""Whatever ends a run, what was done is on disk, and the message says where. A signal waits for a whole state."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from deepobs_func import records
from deepobs_func.runner import RunInterrupted, run, signals
from deepobs_func.runner.callbacks import Evaluated, Event, Logged
from deepobs_func.runner.signals import SHIELD, Signalled
from tests import ends
from tests.runner.small import config, small_problem

QUICK = (
    *(("SIGTERM", "planning"), ("SIGINT", "measuring"), ("SIGHUP", "evaluation 0"), ("SIGHUP", "training")),
    *(("SIGTERM", "between epochs"), ("SIGINT", "writing"), ("sys.exit", "init 2"), ("sys.exit", "step 8")),
    *(("broken pipe", "training"), ("full stdout", "evaluation 0"), ("full disk", "training")),
)
ALL = [(end, moment) for end in ends.ENDS for moment in (ends.EXITS if end == "sys.exit" else ends.MOMENTS)]


@pytest.mark.parametrize(("end", "moment"), QUICK)
def test_what_was_printed_is_kept(tmp_path: Path, end: str, moment: str) -> None:
    assert ends.failures(end, moment, ends.run(end, moment, tmp_path)) == []


@pytest.mark.large
@pytest.mark.parametrize(("end", "moment"), [pair for pair in ALL if pair not in QUICK])
def test_what_was_printed_is_kept_at_any_moment(tmp_path: Path, end: str, moment: str) -> None:
    assert ends.failures(end, moment, ends.run(end, moment, tmp_path)) == []


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_for_a_whole_state() -> None:
    with signals.caught(), SHIELD.raised():
        send()
        with pytest.raises(Signalled, match="SIGTERM") as caught:
            SHIELD.check()
    assert (caught.value.number, caught.value.whole) == (signal.SIGTERM, True)


def test_a_second_signal_comes_at_once() -> None:
    with signals.caught(), SHIELD.raised():
        send()
        with pytest.raises(Signalled) as caught:
            send(signal.SIGINT)
        assert (caught.value.number, caught.value.whole) == (signal.SIGINT, False)
        SHIELD.check()  # none waits any more


def test_where_the_shield_is_lowered_a_signal_comes_at_once() -> None:
    with signals.caught(), SHIELD.raised():
        with pytest.raises(Signalled) as caught, SHIELD.raised(False):
            send()
        assert caught.value.whole
        send()
        with pytest.raises(Signalled), SHIELD.raised(False):  # one that has waited, too
            raise AssertionError("it came later than it should")


def test_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in signals.CAUGHT]
    with signals.caught():
        assert [signal.getsignal(number) for number in signals.CAUGHT] != before
        with signals.ignored():
            send()
    assert [signal.getsignal(number) for number in signals.CAUGHT] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.caught():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Sends:
    """Sends a signal after some steps."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, event: Event) -> None:
        self.seen += isinstance(event, Logged)
        if isinstance(event, Logged) and self.seen == self.at:
            send()


@pytest.mark.parametrize("optimizer", ["adam", "torch.optim.Adam"])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, optimizer: str) -> None:
    """From the checkpoint that the signal left; the record is that of the undisturbed run."""
    made = config(optimizer=optimizer, train_log_interval=1, output_dir=str(tmp_path / "results"))
    whole = run(config(optimizer=optimizer, train_log_interval=1), small_problem()).record
    with pytest.raises(RunInterrupted, match="after 1 of 3 epochs") as caught:
        run(made, small_problem(), callbacks=[Sends(5)])
    kept = caught.value.checkpoint
    assert kept is not None
    assert kept.name == "epoch_0000001_step_0000002.safetensors"
    evaluations = []
    again = run(made, small_problem(), callbacks=[lambda event: evaluations.append(type(event))], resume=True).record
    assert evaluations.count(Evaluated) == 2
    assert (again.test_losses, again.minibatch_train_losses) == (whole.test_losses, whole.minibatch_train_losses)
    assert not kept.parent.exists()


def test_an_interrupt_before_the_run_goes_on_keeps_what_was_done_before(tmp_path: Path) -> None:
    made = config(train_log_interval=1, output_dir=str(tmp_path / "results"))
    with pytest.raises(RunInterrupted):
        run(made, small_problem(), callbacks=[Sends(5)])

    class AtStart:
        def resuming(self, kept: object) -> None:
            send()

        def __call__(self, event: Event) -> None:
            raise AssertionError("nothing happens")

    with pytest.raises(RunInterrupted, match="after 1 of 3 epochs") as caught:
        run(made, small_problem(), callbacks=[AtStart()], resume=True)
    assert len(records.read(caught.value.record.path or "").test_losses) == 2


def test_a_run_in_a_thread_leaves_signals_and_the_shield_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with SHIELD.raised(False):
            found.append(SHIELD._raised)
        found.append(run(config(epochs=1), small_problem()).record.status)

    with signals.caught(), SHIELD.raised():
        thread = threading.Thread(target=work)
        thread.start()
        send()  # waits, whatever the thread does
        thread.join()
        with pytest.raises(Signalled):
            SHIELD.check()
    assert found == [True, "finished"]
