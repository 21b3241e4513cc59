# Everything starts here; `make help` lists what there is. The environment is made on first use, in .venv.
FITS   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
PY     := $(VENV)/bin/python
SEEDS  ?= 1
QUICK  ?=
ARGS   ?=
SWEEP   = $(PY) -m speechrl.sweep $(1) --seeds $(SEEDS) $(if $(QUICK),--quick) $(ARGS)

.PHONY: help install test test-all lint type format check smoke table bench mutate reproduce-deepfake reproduce-aqa clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 22

install: $(VENV)/.installed  ## the environment: about 5 GB of packages, two to three minutes

$(VENV)/.installed: pyproject.toml .constraints.txt
	@$(or $(PYTHON),false) -c '$(FITS)' 2>/dev/null || \
	  { echo "speechrl needs Python 3.11, 3.12 or 3.13, and finds none; say where it is: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@df -Pk . | awk 'NR==2 && $$4 < 7e6 {print "speechrl needs about 7 GB of free disk here to install; " int($$4/1e6) " GB are free"; exit 1}'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[dev]'
	@touch $@

reproduce-deepfake: install  ## Table 1 of arXiv 2603.02914 (QUICK=1: a first look; SEEDS=3: three seeds)
	@$(call SWEEP,experiments/deepfake_table1)

reproduce-aqa: install  ## the main table of arXiv 2503.11197 (QUICK=1, SEEDS=3 as above)
	@$(call SWEEP,experiments/aqa_table1)

table: install  ## a table from the runs there are: make table TABLE=deepfake_table1
	@$(PY) -m speechrl.tables experiments/$(TABLE)

test: install  ## the tests, on a CPU, in less than 8 minutes
	$(PY) -m pytest tests -q --durations=10

test-all: install  ## the slow ones too: kills and resumes, the true configurations, the README's commands
	$(PY) -m pytest tests -q --slow --durations=20

lint: install  ## ruff
	$(VENV)/bin/ruff check speechrl tests
	$(VENV)/bin/ruff format --check speechrl tests

format: install  ## ruff, changing files
	$(VENV)/bin/ruff check --fix speechrl tests
	$(VENV)/bin/ruff format speechrl tests

type: install  ## mypy
	$(VENV)/bin/mypy speechrl

check: lint type test  ## all three

smoke: install  ## one tiny run from configuration to record, in a temporary folder
	$(PY) -m speechrl.train experiment=deepfake/grpo table=smoke optimisation.steps=4 optimisation.validate_every=2

mutate: install  ## breaks grpo.py and metrics.py in many ways; every break must be noticed by a test
	$(PY) -m tests.mutate

bench: install  ## speed
	$(PY) -m tests.benchmarks

clean:  ## the environment and everything that was made; runs/ stays
	rm -rf $(VENV) cache .pytest_cache .mypy_cache .ruff_cache *.egg-info
