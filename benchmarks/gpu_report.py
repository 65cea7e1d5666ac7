"""The tables of `benchmarks.gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import recording, tables

Found = dict[str, Any]
PARTS = ("steps", "epochs", "probes", "populations")
MODULE = "module, compiled"


def share(row: Found, peak: Found) -> float:
    """Of the time in which the device could do it at its measured peak: what is multiplied, or what is moved."""
    rate = peak.get(row["precision"], peak["float32"])
    least = max(row["flops"] / rate / 1e9, row["bytes"] / peak["gigabytes"] / 1e6)
    return least / row["milliseconds"]


def peak_of(found: Found) -> Found:
    """What was measured of the device by itself; nothing where other programs used it meanwhile."""
    peak: Found = {} if found.get("peak_is_shared") else found.get("peak", {})
    return peak


def peak_line(found: Found) -> str:
    """What the device does at most."""
    peak = peak_of(found)
    rates = [f"{peak[name]:.3g} TFLOP/s in {name}" for name in ("float32", "tf32", "bf16") if name in peak]
    parts = [f"{peak['gigabytes']:.4g} GB/s", *rates, f"{peak['launch_microseconds']:.2g} us a launch"] if peak else []
    return f"**{found['name']}**, torch {found['environment']['torch']}{': ' if parts else ''}{', '.join(parts)}."


def steps_table(found: Found) -> str:
    """A line a problem and a way: milliseconds, to the compiled module, of the peak."""
    lines, peak = [], peak_of(found)
    for problem, of_problem in found.get("steps", {}).items():
        rows = [row for row in of_problem.get("rows", []) if "milliseconds" in row]
        unit = next((row["milliseconds"] for row in rows if row["by"] == MODULE), None)
        for row in rows:
            ratio = "" if unit is None else f"{row['milliseconds'] / unit:.2f}"
            of_peak = [f"{share(row, peak):.1%}"] if peak else []
            lines.append([problem, row["by"], row["precision"], f"{row['milliseconds']:.3g}", ratio, *of_peak])
    header = ["a step", "by", "precision", "ms", "times the compiled module", *(["of the peak"] if peak else [])]
    return tables.table(header, lines) if lines else ""


def epochs_table(found: Found) -> str:
    """A line a problem."""
    lines = []
    for problem, of_problem in found.get("epochs", {}).items():
        rows = {row["by"]: row for row in of_problem.get("rows", [])}
        if rows:
            ours, plain = rows["ours"], rows["plain loop"]
            how = ours["execution"]
            way = ("compiled" if how["compile"] else "eager") + (", graph" if how["cuda_graphs"] else "")
            ratio = plain["seconds"] / ours["seconds"]
            lines.append([problem, f"{ours['seconds']:.3g} s ({way})", f"{plain['seconds']:.3g} s", f"{ratio:.2f}"])
    return tables.table(["an epoch with its evaluation", "ours", "plain loop", "times as fast"], lines) if lines else ""


def probes_table(found: Found) -> str:
    """A line a quantity."""
    lines = [
        [problem, row["quantity"], row["mode"], f"{row['milliseconds']:.3g}", f"{row['ratio']:.2f}"]
        for problem, of_problem in found.get("probes", {}).items()
        for row in of_problem.get("rows", [])
        if "milliseconds" in row
    ]
    return tables.table(["probes", "quantity", "mode", "ms", "times the gradient"], lines) if lines else ""


def populations_table(found: Found) -> str:
    """A line a number of members."""
    lines = [
        [
            problem,
            str(row["members"]),
            "compiled" if row["compile"] else "eager",
            f"{row['milliseconds']:.3g}",
            f"{1e3 * row['of_a_member']:.3g}",
        ]
        for problem, of_problem in found.get("populations", {}).items()
        for row in of_problem.get("rows", [])
        if "milliseconds" in row
    ]
    header = ["a step of a population", "members", "mode", "ms", "microseconds a member"]
    return tables.table(header, lines) if lines else ""


def errors(found: Found) -> list[str]:
    """All that failed."""
    lines = [f"FAILED {name}" for name in found.get("tests", {}).get("failed", [])]
    for part in PARTS:
        for problem, of_problem in found.get(part, {}).items():
            rows = [of_problem, *of_problem.get("rows", [])]
            lines += [f"{part} {problem} {row.get('by', '')}: {row['error']}" for row in rows if "error" in row]
    return lines


def report(found: Found) -> str:
    """Everything."""
    tested = found.get("tests")
    said = [f"{tested['passed']} tests passed, {len(tested['failed'])} failed."] if tested else []
    missing = [part for part in PARTS if part not in found]
    said += found.get("notes", []) + ([f"Not run: {', '.join(missing)}."] if missing else [])
    parts = [steps_table(found), epochs_table(found), probes_table(found), populations_table(found)]
    failures = "\n".join(f"* {line}" for line in errors(found))
    return "\n\n".join(part for part in [peak_line(found), *said, *parts, failures] if part)


def summary(results: Path = recording.RESULTS) -> str:
    """All GPUs of which there are results."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("gpu-*.json"))]
    measured = [each for each in found if not each["tiny"]]
    return "\n\n".join(map(report, measured)) or "Not measured yet; sweeps of small problems ran on one H200."
