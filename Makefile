# `make run` needs nothing but python3; all that is installed goes into .venv.

PYTHON ?= python3
VENV ?= .venv
# The build of torch to install first; one that is there already stays. A small one without CUDA:
# make run TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ADVANTAGE := $(BIN)/advantage
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

# The first name that is free: an earlier run is never touched.
ifndef RUN
RUN := $(shell name=runs/first; n=1; while [ -e $$name ]; do n=$$((n + 1)); name=runs/first-$$n; done; echo $$name)
endif

.DEFAULT_GOAL := help
.PHONY: help run test check lint types floors test-slow bench notebooks hooks clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{ printf "make %-11s%s\n", $$1, $$2 }'

run: $(VENV)/.run  ## install, train PPO on CartPole and GRPO on a small language model, write reports and a picture
	@$(ADVANTAGE) train ppo CartPole-v1 --seed 0 --run-dir $(RUN)
	@$(ADVANTAGE) eval $(RUN)
	@$(ADVANTAGE) report $(RUN)
	@$(ADVANTAGE) train grpo tiny --task sort --steps 60 --seed 0 --run-dir $(RUN)-grpo
	@$(ADVANTAGE) report $(RUN)-grpo
	@$(ADVANTAGE) compare $(RUN) $(RUN)-grpo --out $(RUN)/curve.png
	@printf '%s\n' '' \
	  'reports  $(RUN)/report.html  $(RUN)-grpo/report.html' \
	  'picture  $(RUN)/curve.png' '' \
	  'What to try next, after  source $(BIN)/activate' '' \
	  '  advantage explain $(RUN)' '      one decision, from its reward to its share of the gradient' \
	  '  advantage doctor $(RUN)' '      what the run warns of, and what to try' \
	  '  advantage train ppo LunarLander-v3' '      a harder task, some minutes' \
	  '  advantage train ppo --help' '      every setting, with its range'

test: $(VENV)/.dev  ## the fast tests and the doctests
	$(PYTEST) $(COVERAGE)

check: lint types floors  ## lint, types, floors, tests with coverage: what CI runs
	@$(MAKE) --no-print-directory test COVERAGE="--cov --cov-report=term"

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev  ## mypy
	$(BIN)/mypy

floors: $(VENV)/.dev  ## import-linter: imports run downward only
	$(BIN)/lint-imports

test-slow: $(VENV)/.dev  ## the tests that take minutes: learning, kills, many seeds
	$(PYTEST) -m "slow and not gpu"

bench: $(VENV)/.dev  ## the speed table beside Stable-Baselines3
	$(BIN)/python -m benchmarks

notebooks: $(VENV)/.dev  ## the notebooks, executed: about twenty minutes
	$(BIN)/python -m notebooks

hooks: $(VENV)/.dev  ## the quick checks before each commit
	$(BIN)/pre-commit install

clean:  ## remove .venv, caches and coverage; runs stay
	rm -rf $(VENV) .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: EXTRAS := box2d,plots,language
$(VENV)/.dev: EXTRAS := box2d,fast,mujoco,plots,tensorboard,language,dev

# Torch is asked for as it stands in .venv, so that pip changes the build of nobody.
$(VENV)/.run $(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes minutes'
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install --quiet $(TORCH)
	@{ grep -v '^torch==' constraints.txt; \
	   $(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))'; } > $(VENV)/constraints.txt
	@$(PIP) install --quiet --constraint $(VENV)/constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d is too old, 3.11 is the least: make PYTHON=python3.12 names another" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV)
