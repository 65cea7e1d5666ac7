"""The record of a run: plain data, in DeepOBS's own JSON layout and folders. Imports no torch.

DeepOBS's keys stand first, in DeepOBS's order, so that its analyzer reads the file; what is new stands under the one
extra key `deepobs_func`. Non-finite numbers are bare `NaN` and `Infinity`, as DeepOBS writes them.
"""

from __future__ import annotations

from deepobs_func.records.identity import environment, execution_id, run_id
from deepobs_func.records.names import class_name, float2str, folder_of, lr_schedule, setting_name
from deepobs_func.records.names import relative_folder as relative_folder
from deepobs_func.records.places import STATE_SUFFIX, check_writable, output_path, state_dir
from deepobs_func.records.record import EXTRA, RunRecord, Status, read
from deepobs_func.records.writing import Written, write, write_anywhere

__all__ = [
    "EXTRA",
    "RunRecord",
    "Status",
    "Written",
    "STATE_SUFFIX",
    "check_writable",
    "class_name",
    "environment",
    "execution_id",
    "float2str",
    "folder_of",
    "lr_schedule",
    "output_path",
    "read",
    "run_id",
    "setting_name",
    "state_dir",
    "write",
    "write_anywhere",
]
