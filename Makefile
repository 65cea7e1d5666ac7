# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest test-large test-largest test-others test-bench test-gpu bench bench-probes docs lint dist clean

demo: .venv/ready
	$(BIN)/deepobs demo $(if $(DATA),--data $(DATA))

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Files of every room, without what compiles, which takes minutes: a core of the quick suite.
OLDEST_TESTS := $(addprefix tests/, test_base.py test_errors.py test_lazy.py test_random.py test_start.py \
	test_third_party.py test_tree.py analysis datasets/test_arrays.py datasets/test_loading.py datasets/test_spec.py \
	datasets/test_svhn.py datasets/test_torchvision_parts.py nets optimizers/test_common.py \
	optimizers/test_first_order.py optimizers/test_second_order.py optimizers/test_transforms.py \
	probes/test_curvature.py probes/test_quantities.py probes/test_solve.py probes/test_tracked.py \
	problems/test_oracle.py records runner/test_training.py)

test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -k "not compil" $(OLDEST_TESTS)

# In two processes, one of them for the largest nets, of which two at once need more memory than there is.
test-large: .venv/ready
	$(MAKE) --jobs 2 test-largest test-others

test-largest: .venv/ready
	$(BIN)/python -m pytest -m largest

test-others: .venv/ready
	$(BIN)/python -m pytest -m "large and not largest"

test-bench: .venv/bench
	$(BIN)/python -m pytest -m bench

# On a machine with a GPU; `python -m benchmarks.gpu` runs them too, and measures.
test-gpu: .venv/ready
	$(BIN)/python -m pytest -m gpu tests/gpu

bench: .venv/ready
	$(BIN)/python -m benchmarks --threads 1 2 $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

bench-probes: .venv/bench
	$(BIN)/python -m benchmarks.probes --threads 1 2
	$(BIN)/python -m benchmarks.jax_beside
	$(BIN)/python -m benchmarks.make_readme

# Into build/site. What is generated is written anew; `GALLERY=0` leaves out the examples' output.
docs: .venv/docs
	rm -rf docs/api docs/catalogue build/site build/doctrees
	DEEPOBS_GALLERY=$(or $(GALLERY),1) $(if $(DATA),DEEPOBS_DATA=$(DATA)) \
	$(BIN)/python -m sphinx -W -n --keep-going --doctree-dir build/doctrees docs build/site

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist: .venv/ready
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

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

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs]'
	touch $@

clean:
	rm -rf .venv .venv-oldest
