# Each target is enough on a fresh machine with Python 3.11: it makes .venv from requirements.lock when needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
PROFILE ?= laptop
ONLY ?=
JOBS ?= 1

# Optional real data beside the project; everything runs without it.
ifneq ($(wildcard ../shared/data),)
export RLVR_SHARED_DATA ?= $(abspath ../shared/data)
endif

# Modules where types pay: what everybody builds on.
TYPED := rlvr_lib/files.py rlvr_lib/artifacts.py rlvr_lib/progress.py rlvr_lib/profile.py rlvr_lib/profile_fields.py rlvr_lib/profile_schema.py \
  rlvr_lib/profile_schema_agent.py rlvr_lib/profile_schema_analysis.py rlvr_lib/profile_schema_domains.py rlvr_lib/profile_schema_real2sim.py \
  rlvr_lib/notebooks.py rlvr_lib/notebook_rules.py rlvr_lib/runner.py rlvr_lib/cli.py rlvr_lib/status.py rlvr_lib/doctor.py

.PHONY: help setup test lint reproduce lab bench clean

help:
	@echo "make reproduce   run the notebooks (PROFILE=laptop) and write reports/laptop/report.html"
	@echo "make test        lint, types, unit tests, every notebook at the smoke profile"
	@echo "make lab         JupyterLab on the notebooks"
	@echo "make bench       side-by-side performance measurements"
	@echo "make clean       remove .venv and caches; runs/ and reports/ stay"

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@python=$$(for name in python3.11 python3 python; do \
	    command -v $$name >/dev/null 2>&1 \
	    && $$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$name && break; done); \
	if [ -z "$$python" ]; then \
	    echo "error: Python 3.11 is needed and neither python3.11 nor python3 is one; install it" \
	         "(apt install python3.11-venv, brew install python@3.11, pyenv install 3.11) or use conda: environment.yml" >&2; \
	    exit 1; fi; \
	echo "setting up $(VENV) with $$($$python --version)"; \
	test -x $(BIN)/python || $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --ignore-missing-imports --follow-imports=silent $(TYPED)

test: export OMP_NUM_THREADS = 1
test: export HF_HUB_OFFLINE = 1
test: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

reproduce: $(STAMP)
	$(BIN)/rlvr reproduce --profile $(PROFILE) --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

bench: $(STAMP)
	@for script in benchmarks/grpo_step.py benchmarks/text_sampling.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .snakemake
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
