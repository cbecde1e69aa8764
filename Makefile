PROMPT ?= a red mushroom
SEED ?= 0
export PROMPT SEED

PYTHON_ = .venv/bin/python
BUILDER = $(PYTHON_) -c 'import bpy, os, runpy; runpy.run_path(os.path.join(bpy.utils.system_resource("SCRIPTS"), "addons_core", "bl_pkg", "cli", "blender_ext.py"), run_name="__main__")'
STAGE = dist/extension

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
	@$(PYTHON_) -m msd_blender generate "$$PROMPT" --seed "$$SEED" \
	    --output "out/$$(printf %s "$$PROMPT" | tr -cs '[:alnum:]' - | cut -c 1-60).blend"

lint: setup
	$(PYTHON_) -m ruff check .
	$(PYTHON_) -m mypy

test: lint
	$(PYTHON_) -m pytest -q

bench: setup
	$(PYTHON_) -m benchmarks

# Blender's builder wants the manifest beside __init__.py, where the package could no longer be imported
# by its name from the repository; so the two are put together in a folder of their own.
extension: setup
	@rm -rf $(STAGE) && mkdir -p $(STAGE)
	@cp blender_manifest.toml LICENSE msd_blender/*.py $(STAGE)
	$(BUILDER) build --source-dir $(STAGE) --output-dir dist
	@$(BUILDER) validate dist/msd_blender-*.zip
	@rm -rf $(STAGE)
