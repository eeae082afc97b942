# Two commands do everything on a machine that has only Python 3.11: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= build/demo
# ruff reads TOML only; its few settings stand here, beside the commands that use them.
RUFF_CHECK := $(BIN)/ruff check --line-length 100 --extend-select I,B,UP,D1,C4,SIM,PLE,PLW --extend-ignore PLW2901,D105,D107 \
	--per-file-ignores 'tests/*:D1' --per-file-ignores 'setup.py:D1'
RUFF_FORMAT := $(BIN)/ruff format --line-length 100
CODE := setup.py data_pipelines faceattr_tf export tests benchmarks

.PHONY: demo test lint format

$(VENV)/installed: setup.cfg
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m faceattr_tf.commands.demo --folder=$(DEMO)

lint: $(VENV)/installed
	$(RUFF_CHECK) $(CODE)
	$(RUFF_FORMAT) --check $(CODE)

format: $(VENV)/installed
	$(RUFF_CHECK) --fix $(CODE)
	$(RUFF_FORMAT) $(CODE)

test: lint
	$(BIN)/python -m pytest
