PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STARTED := $(shell date +%s)

.PHONY: demo test clean

# Stamp files, so that a second call installs nothing.
$(VENV)/demo.stamp: pyproject.toml
	@echo "== Making the virtual environment $(VENV) and installing carm-env (a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@
	@echo "== Installed after $$(( $$(date +%s) - $(STARTED) )) s"

$(VENV)/test.stamp: $(VENV)/demo.stamp
	@echo "== Installing what the tests need (torch among it: a few minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@
	@echo "== Installed after $$(( $$(date +%s) - $(STARTED) )) s"

demo: $(VENV)/demo.stamp
	@echo "== Leaderboard of the scripted policies on the suite 'smoke'"
	$(BIN)/python benchmarks/leaderboard.py --policies oracle atlas random --suite smoke --out demo
	@echo "== Done after $$(( $$(date +%s) - $(STARTED) )) s."
	@echo "   demo/trip.gif: from the right scapula to the skull; demo/leaderboard.md: the table"

test: $(VENV)/test.stamp
	@echo "== Lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== Types"
	$(BIN)/mypy
	@echo "== Tests and doctests"
	$(BIN)/python -m pytest
	@echo "== Done after $$(( $$(date +%s) - $(STARTED) )) s"

clean:
	rm -rf $(VENV) demo
