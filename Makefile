# make demo, make test: each sets up .venv by itself (Python 3.11 or newer) and is quick the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One more than there are processors: some tests wait for processes that they have started.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: demo test lint format stress docs docs-pages release clean

demo: $(STAMP)
	$(BIN)/mgraph demo --output demo --overwrite

# A test that hangs, or what ends with it, is named and ends its process, with the stack of each thread.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not stress" \
		-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

stress: $(STAMP)
	$(BIN)/python -m pytest -m stress
	MGRAPH_EXAMPLES=10 $(BIN)/python -m pytest -m "not stress" \
		tests/query/test_arrays.py tests/query/test_components.py tests/query/test_matrix.py \
		tests/store/test_filters.py tests/store/test_partial.py tests/explore/test_suggest.py tests/families \
		tests/store/test_schema.py tests/store/test_blocks.py tests/store/test_grids.py tests/store/test_journal.py \
		tests/store/test_following.py tests/network/test_tensorfile.py tests/train/test_autoneb.py \
		tests/train/test_driver.py tests/train/test_resume.py tests/train/test_split_batch.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-pages: $(STAMP)
	$(BIN)/python docs/generate.py

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python docs/build_site.py build/site

# A source distribution and a wheel in dist/ of what is committed, checked, and the wheel tried in a fresh environment.
# Uploads nothing. URL=https://HOST/OWNER/NAME is where the repository is; README's picture is shown from there.
release:
	rm -rf dist build/release
	mkdir -p build/release/source
	git archive HEAD | tar -x -C build/release/source
	$(PYTHON) .ci/published.py build/release/source $(URL)
	$(PYTHON) -m venv build/release/tools
	build/release/tools/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	build/release/tools/bin/python -m pip install --quiet --group release
	build/release/tools/bin/python -m build --outdir dist build/release/source
	build/release/tools/bin/python -m twine check --strict dist/*
	.ci/smoke $(PYTHON) dist/*.whl

# Made anew when the dependencies change; a half-made one is no .installed and is finished next time.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "mgraph needs Python 3.11 or newer; choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
