# Two commands set everything up: `make train` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train compare test quick slow lint clean

# The main job: a small model on the packaged minis, weighted by a critic.
train: .venv/.base
	$(BIN)/python -m wmtp_jax.train --algo critic

# All algorithms and their controls on the minis, small enough for minutes: what a report
# looks like, not which algorithm is better.
compare: .venv/.base
	$(BIN)/python -m wmtp_jax.compare --model smoke --model.max-positions 512 \
		--train.max-steps 40 --seeds 1

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Formulas, targets, data, config, and one run of each trainer.
quick: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal \
		shared/weighting.py shared/targets.py shared/config shared/data \
		tests/test_weighting.py tests/test_weighting_properties.py \
		tests/test_oracle.py tests/test_targets.py tests/config tests/data \
		"tests/test_every_algorithm.py::test_every_algorithm_trains" -k "not trains or critic"

# Long soak and torture runs, left out of `make test`, and the full product of parity.
slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.base: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/.dev: .venv/.base
	$(PIP) -e '.[dev,torch]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .jax_cache .mypy_cache .ruff_cache .hypothesis
