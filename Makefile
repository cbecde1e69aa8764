PROMPT ?= a red mushroom
SEED ?= 0
export PROMPT SEED

PY = .venv/bin/python

.PHONY: help setup demo test lint bench extension
help:
	@echo 'make setup      everything into .venv (the other targets do it themselves)'
	@echo 'make demo       PROMPT="a red mushroom" SEED=0 -> out/a-red-mushroom.blend'
	@echo 'make test       ruff, mypy, pytest'
	@echo 'make bench      speed per iteration'
	@echo 'make extension  the zip for Blender, into dist/'

setup:
	@scripts/setup.sh

demo: setup
	@$(PY) -m msd_blender generate "$$PROMPT" --seed "$$SEED" \
	    --output "out/$$(printf %s "$$PROMPT" | tr -cs '[:alnum:]' - | cut -c 1-60).blend"

lint: setup
	$(PY) -m ruff check .
	$(PY) -m mypy

test: lint
	$(PY) -m pytest -q

bench: setup
	$(PY) -m benchmarks

extension: setup
	@$(PY) scripts/extension.py dist
