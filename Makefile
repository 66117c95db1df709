# Every target does its own set-up; the first run builds .venv, later ones find it ready.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Shims of version managers may exist and not run, so a candidate counts only if it answers.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
BIN := .venv/bin
UV ?= $(BIN)/uv
LOCK := pip compile -q pyproject.toml --extra demo --extra dev --extra track --no-annotate --no-header --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28
# Where `make lock` finds a CPU build of torch; a folder works too: TORCH="--find-links FOLDER".
TORCH ?= --torch-backend cpu

.DEFAULT_GOAL := help
.PHONY: help env demo test test-fast lint bench-dpo bench-recipes bench-learning lock clean

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

env: ## build .venv from the pinned list (cpu, or gpu where an NVIDIA device is found)
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12 with venv (Debian, Ubuntu: apt-get install python3-venv)," \
		"or name one: make env PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) requirements/install.py

demo: env ## one Meta-Rewarding iteration on a real 135M model, about ten minutes on two cores
	$(BIN)/python appellate.py run examples/demo.yaml

lint: env ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ty check

test: lint ## lint, types and every test
	$(BIN)/python -m pytest

test-fast: lint ## lint, types and the tests that start no model
	$(BIN)/python -m pytest -m "not slow"

bench-dpo: env ## pairs/s and memory of the trainer against TRL, side by side; half an hour on two cores
	$(UV) pip install -q --python $(BIN)/python --no-deps "$$(grep -o 'trl==[0-9.]*' pyproject.toml)"
	$(BIN)/python benchmarks/dpo.py --out benchmarks/results/dpo-cpu.json

bench-recipes: env ## every recipe end to end on the real model, as small as can be; twenty minutes on two cores
	$(BIN)/python -m pytest -n 0 --durations 0 benchmarks/test_recipes.py

# The fair task's difficulty is chosen from the start model alone, before anything is trained on it.
bench-learning: env ## what recipes teach a 135M model, on held-out problems and beside controls; many hours on two cores
	@test -f benchmarks/results/learning-fair.json || $(BIN)/python -m benchmarks.learning --pick-fair
	$(BIN)/python -m benchmarks.learning

lock: env ## resolve the pinned lists again from pyproject.toml
	@{ echo "# All packages for Python 3.11 and 3.12 on Linux x86-64 without a GPU, installed without their dependencies."; \
	   echo "# Made by 'make lock' from pyproject.toml and overrides-cpu.txt; torch is installed first, in its CPU build"; \
	   echo "# where one can be had (requirements/install.py)."; \
	   $(UV) $(LOCK) --extra cpu --override requirements/overrides-cpu.txt $(TORCH) \
	   | sed 's/^\(torch==[0-9.]*\)+cpu$$/\1/'; } >requirements/cpu.txt.new
	@mv requirements/cpu.txt.new requirements/cpu.txt
	@{ echo "# All packages for Python 3.11 and 3.12 on Linux x86-64 with an NVIDIA GPU (CUDA 13)."; \
	   echo "# Made by 'make lock' from pyproject.toml and overrides-gpu.txt."; \
	   $(UV) $(LOCK) --extra gpu --override requirements/overrides-gpu.txt; } >requirements/gpu.txt.new
	@mv requirements/gpu.txt.new requirements/gpu.txt

clean: ## remove the environment and caches, keep runs
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
