# Two commands do everything on a machine that has only Python 3.11, 3.12 or 3.13: `make demo` and `make test`.
# `make thorough` adds the long tests, and the demo on every other of these versions that is there.
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# A name on the path need not run (pyenv's shims), therefore each is tried.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c '$(SUPPORTED)' 2> /dev/null && echo $$python && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= build/demo
# ruff reads TOML only; its few settings stand here, beside the commands that use them.
RUFF_CHECK := $(BIN)/ruff check --line-length 100 --extend-select I,B,UP,D1,C4,SIM,PLE,PLW --extend-ignore PLW2901,D105,D107 \
	--per-file-ignores 'tests/*:D1' --per-file-ignores 'setup.py:D1'
RUFF_FORMAT := $(BIN)/ruff format --line-length 100
CODE := setup.py data_pipelines faceattr_tf export tests benchmarks

.PHONY: demo test thorough smoke lint format

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'no Python 3.11, 3.12 or 3.13 is on the path; PYTHON=... names one' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A quarter of all modules is ever imported: they are compiled then, and not all of them here, for a minute.
INSTALL_OPTIONS = --quiet --disable-pip-version-check --no-compile

$(VENV)/installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install $(INSTALL_OPTIONS) --editable .
	touch $@

$(VENV)/test-installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install $(INSTALL_OPTIONS) --editable '.[test]'
	touch $(VENV)/installed $@

# The whole way on drawn faces, by the commands that a user would type.
demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/faceattr-data synth --dataset=celeba --folder=$(DEMO)/celeba --images=1600
	$(BIN)/faceattr-data build --dataset=celeba --source=$(DEMO)/celeba --records=$(DEMO)/records
	$(BIN)/faceattr-data inspect --records=$(DEMO)/records --picture=$(DEMO)/faces.png
	$(BIN)/faceattr-train --config=demo --records=$(DEMO)/records --workdir=$(DEMO)/work
	$(BIN)/faceattr-evaluate --workdir=$(DEMO)/work --records=$(DEMO)/records
	$(BIN)/faceattr-export --workdir=$(DEMO)/work --output=$(DEMO)/models
	$(BIN)/python -m export.reload $(DEMO)/models/faceattr/1 $(DEMO)/celeba/img_align_celeba/00000[1-4].jpg
	$(BIN)/faceattr-predict --workdir=$(DEMO)/work --output=$(DEMO)/results $(DEMO)/celeba/img_align_celeba/00000*.jpg
	@echo "report: $(abspath $(DEMO))/work/evaluation/celeba-test/report.html"

lint: $(VENV)/test-installed
	$(RUFF_CHECK) $(CODE)
	$(RUFF_FORMAT) --check $(CODE)

format: $(VENV)/test-installed
	$(RUFF_CHECK) --fix $(CODE)
	$(RUFF_FORMAT) $(CODE)

# Two processes at a time, a file as a whole: its tests share what they have built.
PYTEST = $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

thorough: lint smoke
	$(PYTEST) -m ''

# The demo in an environment of its own for each supported Python beside the one of the tests.
smoke: $(BIN)/python
	@own=$$($(BIN)/python -c 'import sys; print(sys.version_info.minor)'); \
	for minor in 11 12 13; do \
		test $$minor = $$own && continue; \
		for python in python3.$$minor $$HOME/.pyenv/versions/3.$$minor.*/bin/python; do \
			$$python -c '$(SUPPORTED)' 2> /dev/null && break; \
		done || { echo "Python 3.$$minor: not here"; continue; }; \
		$(MAKE) demo PYTHON=$$python VENV=build/python3.$$minor DEMO=build/demo-3.$$minor || exit 1; \
		echo "Python 3.$$minor: the demo ran"; \
	done
