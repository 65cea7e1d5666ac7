"""What can be tested on a GPU alone; `python -m benchmarks.gpu` runs it there."""
