PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
VENV_NUMPY1 ?= .venv-numpy1
# deepdrr pins numpy < 2 and requires 3 GB that volumes do not need; its tests run with these three packages.
DEEPDRR = deepdrr==1.2.2 killeengeo strenum
PIP_INSTALL = pip install --quiet --disable-pip-version-check
PYTEST = -m pytest -n auto --dist worksteal
# What computes with arrays; texts, servers and command lines are tested with the newest numpy alone.
NUMPY1_TESTS = $(wildcard tests/carm_env/test_*.py) $(addprefix tests/carm_env/,ct envs evaluation patients randomization views xray)
STARTED := $(shell date +%s)
ELAPSED = $$(( $$(date +%s) - $(STARTED) )) s

.PHONY: demo test test-numpy1 coverage reliability gpu-evidence docs clean

# The stamp files let a second call skip the installation.
$(VENV)/demo.stamp: pyproject.toml
	@echo "== Creating the virtual environment $(VENV) and installing carm-env (one or two minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -e .
	$(BIN)/carm-env doctor --warm
	@touch $@
	@echo "== Installed after $(ELAPSED)"

$(VENV)/test.stamp: $(VENV)/demo.stamp
	@echo "== Installing the packages for the tests, including torch (a few minutes)"
	$(BIN)/$(PIP_INSTALL) -e ".[test]"
	$(BIN)/$(PIP_INSTALL) --no-deps $(DEEPDRR)
	@touch $@
	@echo "== Installed after $(ELAPSED)"

# Runs the leaderboard of the scripted policies.
demo: $(VENV)/demo.stamp
	@echo "== Leaderboard of the scripted policies on the suite 'smoke'"
	$(BIN)/python benchmarks/leaderboard.py --policies oracle atlas random --suite smoke --out demo --resume
	@echo "== Finished after $(ELAPSED)"
	@echo "   demo/leaderboard.md: the table; demo/episode.gif: an episode from the right scapula to the skull"

# Runs lint, types, tests and doctests.
test: $(VENV)/test.stamp
	@echo "== Lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== Types"
	$(BIN)/mypy
	@echo "== Tests and doctests"
	$(BIN)/python $(PYTEST)
	@echo "== Finished after $(ELAPSED)"

# Measures which lines and branches of the evaluation its own tests run, without those that run in worker processes.
coverage: $(VENV)/test.stamp
	$(BIN)/$(PIP_INSTALL) coverage
	$(BIN)/coverage run --branch --source=carm_env/evaluation -m pytest -q -n 0 tests/carm_env/evaluation tests/benchmarks/test_leaderboard.py
	$(BIN)/coverage report --sort=cover

$(VENV_NUMPY1)/test.stamp: pyproject.toml
	@echo "== Creating the virtual environment $(VENV_NUMPY1) with numpy 1.26, without torch"
	$(PYTHON) -m venv $(VENV_NUMPY1)
	$(VENV_NUMPY1)/bin/$(PIP_INSTALL) "numpy<2" -e ".[ct,video]" hypothesis pytest pytest-xdist
	$(VENV_NUMPY1)/bin/$(PIP_INSTALL) --no-deps $(DEEPDRR)
	@touch $@
	@echo "== Installed after $(ELAPSED)"

# Runs the core tests with the oldest numpy that carm-env supports, which deepdrr needs.
test-numpy1: $(VENV_NUMPY1)/test.stamp
	@echo "== Core tests with numpy 1.26"
	$(VENV_NUMPY1)/bin/python $(PYTEST) $(NUMPY1_TESTS)
	@echo "== Finished after $(ELAPSED)"

# Kills processes, damages files and plants hostile ones and personal data, in at most 20 minutes on 2 cores.
reliability: $(VENV)/test.stamp
	$(BIN)/python tests/reliability/run.py --out runs/reliability --page docs/results/reliability.md

# Measures everything that needs an NVIDIA GPU, in at most 9 minutes.
gpu-evidence: $(VENV)/test.stamp
	$(BIN)/python benchmarks/gpu_evidence.py

# Builds the documentation into site/.
docs: $(VENV)/test.stamp
	$(BIN)/$(PIP_INSTALL) -e ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV_NUMPY1) demo site
