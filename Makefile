# Two commands do everything on a fresh machine, each alone: `make demo` and `make test`.
# Python 3.11 or newer; choose another with `make PYTHON=python3.12 demo`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint docs coverage bench wheel lava clean

demo: lava
	$(BIN)/kdsnn-deploy demo --out demo-output --overwrite

# with lint among the tests
test: lava
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# apart from `test`, which it would make slower; without the stops at any moment: a signal in coverage's own lock waits for ever
coverage: lava
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov -k "not stopped_at_any_moment"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html

bench: $(READY)
	$(BIN)/python -m benchmarks

# what a user installs: the source distribution, the wheel made from it, and the demo's chain run from the wheel in a fresh
# environment, without constraints and elsewhere; some GB, most of them torch
wheel:
	rm -rf dist build/wheel
	mkdir -p build/wheel/elsewhere
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/python -m pip install --quiet build
	build/wheel/env/bin/python -m build --outdir dist
	build/wheel/env/bin/python -m pip install --quiet dist/*.whl
	cd build/wheel/elsewhere && env -u PYTHONPATH ../env/bin/kdsnn-deploy lava setup
	cd build/wheel/elsewhere && env -u PYTHONPATH ../env/bin/kdsnn-deploy demo --out demo-output
	du -sh build/wheel/env

lava: $(READY)
	$(BIN)/kdsnn-deploy lava setup

# the stamp is written last, so that an interrupted installation starts again
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv demo-output build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
