"""Schedulers beyond one machine: existing ones, of which each run is a task."""
