# Every target sets up what it needs in .venv and runs from a fresh clone: Python >= 3.11 and a
# package index are enough, no C compiler.
#
#   make demo    read a rendered line of text with a real OCR model, compared with ONNX Runtime
#   make test    the fast suite (at most 10 minutes on 2 cores)
#   make lint    ruff and mypy
#   make slow    the slow suites: larger models, the wheel in a clean environment
#   make bench   EvoNNX against its peers; the table goes to bench/results/
#   make fuzz    N random graphs (N=1000) against the reference and peers; failures to fuzz-failures/
#
# PYTHON=python3.12 chooses the interpreter, ARGS="-k text -x" is passed on to pytest or the bench.

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
ARGS  ?=
N     ?= 1000
# Shims may exist for interpreters that do not run, so a candidate is tried, not looked up.
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(PROBE)' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint bench fuzz clean

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

demo: $(VENV)/.demo
	$(BIN)/python -m evonnx.bench.demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 8 --dist loadfile --durations=10 $(ARGS)

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow --durations=10 $(ARGS)

lint: $(VENV)/.dev .layout/evonnx
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m evonnx.bench --out bench/results $(ARGS)

fuzz: $(VENV)/.dev
	$(BIN)/python -m evonnx.bench.fuzz $(N) --save fuzz-failures $(ARGS)

clean:
	rm -rf $(VENV) .layout build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# mypy names the files of a package after their folder; this link gives the root its real name.
.layout/evonnx:
	mkdir -p .layout
	ln -sfn .. $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; say PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: a target installs only what it needs, again when pyproject.toml changes.
$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP) install -q -e ".[$*]"
	@touch $@
