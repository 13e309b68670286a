.PHONY: demo test lint
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/hf-compress run quickstart --overwrite

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
