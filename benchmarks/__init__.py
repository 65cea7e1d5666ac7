"""What the README's figures come from; run from the root of a clone: `python -m benchmarks.probes`."""
