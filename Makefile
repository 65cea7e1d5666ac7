# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-large test-bench bench bench-probes lint clean

demo: .venv/ready
	$(BIN)/deepobs demo $(if $(DATA),--data $(DATA))

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-large: .venv/ready
	$(BIN)/python -m pytest -m large

test-bench: .venv/bench
	$(BIN)/python -m pytest -m bench

bench: .venv/ready
	$(BIN)/python -m benchmarks --threads 1 2 $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

bench-probes: .venv/bench
	$(BIN)/python -m benchmarks.probes --threads 1 2
	$(BIN)/python -m benchmarks.jax_beside
	$(BIN)/python -m benchmarks.make_readme

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

clean:
	rm -rf .venv
