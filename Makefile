# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest test-large test-bench bench bench-probes lint clean

demo: .venv/ready
	$(BIN)/deepobs demo $(if $(DATA),--data $(DATA))

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Files that cover every room and need little of the compiler.
OLDEST_TESTS := tests

test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -p no:cacheprovider $(OLDEST_TESTS)

test-large: .venv/ready
	$(BIN)/python -m pytest -m large

test-bench: .venv/bench
	$(BIN)/python -m pytest -m bench

bench: .venv/ready
	$(BIN)/python -m benchmarks --threads 1 2 $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

bench-probes: .venv/bench
	$(BIN)/python -m benchmarks.probes --threads 1 2
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

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt torch torchvision
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[test]'
	touch $@

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

clean:
	rm -rf .venv .venv-oldest
