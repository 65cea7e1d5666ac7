"""DeepOBS's object API over the functional core, and DeepOBS 1.1.2 beside it: its weights, equality with its figures.

from deepobs_func.compat import testproblems, datasets, runners, tuner, analyzer, config

What is imported here is DeepOBS's: classes that hold their parameters, and settings of the process. docs/migration.md
says what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.compat import analyzer as analyzer
    from deepobs_func.compat import config as config
    from deepobs_func.compat import datasets as datasets
    from deepobs_func.compat import runners as runners
    from deepobs_func.compat import testproblems as testproblems
    from deepobs_func.compat import tuner as tuner
    from deepobs_func.compat.installing import install as install

_MODULES = ("analyzer", "config", "datasets", "runners", "testproblems", "tuner")
_PATHS = {name: f"{__name__}.{name}" for name in _MODULES} | {"install": f"{__name__}.installing:install"}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
