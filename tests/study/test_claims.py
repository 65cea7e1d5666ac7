"""Claims: one holder at a time, freed by the death of the holder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepobs_func.errors import ConfigError
from deepobs_func.study.claims import Claim, check_locks

HOLDER = """
import sys, time
from pathlib import Path
from deepobs_func.study.claims import Claim
claim = Claim(Path(sys.argv[1]))
assert claim.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_claim_has_one_holder(tmp_path: Path) -> None:
    first, second = Claim(tmp_path / "lock"), Claim(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()


def test_the_kernel_frees_the_claim_of_a_killed_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    claim = Claim(tmp_path / "lock")
    assert not claim.acquire()
    holder.kill()
    holder.wait()
    assert claim.acquire()


def test_locks_work_here(tmp_path: Path) -> None:
    check_locks(tmp_path / "state")
    check_locks(tmp_path / "state")


@pytest.mark.parametrize("fault", [OSError(38, "Function not implemented"), UserWarning("a soft lock instead")])
def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def acquire(self: Claim) -> bool:
        raise fault

    monkeypatch.setattr(Claim, "acquire", acquire)
    with pytest.raises(ConfigError, match=r"cannot be locked .*engine ray or slurm"):
        check_locks(tmp_path)


def test_a_lock_that_two_can_hold_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claim, "acquire", lambda self: True)
    with pytest.raises(ConfigError, match="two processes can hold one lock"):
        check_locks(tmp_path)
