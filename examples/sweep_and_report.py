"""
A sweep and its report
======================

A study is many runs, written down before anything runs. A sweep runs what is missing; a report is one page of all.
"""

# %%
# Two problems, two optimizers, three learning rates each, two seeds: 24 runs.
import tempfile
from pathlib import Path

from deepobs_func import Study, analysis
from deepobs_func.analysis import figures
from deepobs_func.analysis.reports import write_report
from deepobs_func.study import LogGrid, sweep

folder = Path(tempfile.mkdtemp())
study = Study(
    ["quadratic_deep", "two_d_beale"],
    {"momentum": {"lr": LogGrid(1e-6, 1e-4, 3)}, "adam": {"lr": LogGrid(1e-3, 1e-1, 3)}},
    seeds=2,
    epochs=3,
    compile="off",
    output_dir=str(folder / "results"),
)
print(study.size, "runs")

# %%
# The same call goes on where an earlier one ended. Its worker processes stay between runs.
swept = sweep(study, jobs=1)
print(swept.counts())

# %%
# The report is one HTML file, which makes no request.
results = analysis.load(folder / "results")
page = write_report(results, folder / "report.html", title="Two problems")
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")

# %%
# What stands in the report can be drawn by itself.
figure = figures.sensitivity(results)
figure
