"""The record of a run: plain data, in DeepOBS's own JSON layout and folders. Imports no torch.

DeepOBS's keys stand first, in DeepOBS's order, so that its analyzer reads the file; what is new stands under the one
extra key `deepobs_func`. Non-finite numbers are bare `NaN` and `Infinity`, as DeepOBS writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.records.costing import GRADIENTS as GRADIENTS
    from deepobs_func.records.costing import costs as costs
    from deepobs_func.records.costing import gradient_equivalents as gradient_equivalents
    from deepobs_func.records.identity import environment as environment
    from deepobs_func.records.identity import execution_id as execution_id
    from deepobs_func.records.identity import run_id as run_id
    from deepobs_func.records.names import class_name as class_name
    from deepobs_func.records.names import float2str as float2str
    from deepobs_func.records.names import folder_of as folder_of
    from deepobs_func.records.names import lr_schedule as lr_schedule
    from deepobs_func.records.names import relative_folder as relative_folder
    from deepobs_func.records.names import setting_name as setting_name
    from deepobs_func.records.places import STATE_SUFFIX as STATE_SUFFIX
    from deepobs_func.records.places import check_writable as check_writable
    from deepobs_func.records.places import output_path as output_path
    from deepobs_func.records.places import state_dir as state_dir
    from deepobs_func.records.record import EXTRA as EXTRA
    from deepobs_func.records.record import RunRecord as RunRecord
    from deepobs_func.records.record import Status as Status
    from deepobs_func.records.record import read as read
    from deepobs_func.records.writing import Written as Written
    from deepobs_func.records.writing import write as write
    from deepobs_func.records.writing import write_anywhere as write_anywhere

_ROOMS = {
    "costing": ("GRADIENTS", "costs", "gradient_equivalents"),
    "identity": ("environment", "execution_id", "run_id"),
    "names": ("class_name", "float2str", "folder_of", "lr_schedule", "relative_folder", "setting_name"),
    "places": ("STATE_SUFFIX", "check_writable", "output_path", "state_dir"),
    "record": ("EXTRA", "RunRecord", "Status", "read"),
    "writing": ("Written", "write", "write_anywhere"),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
