# make run: try Knocker here, with a real Caddy.   make test: the suite.   make test-long: its full counts.
# make image-test: the image and docker-compose.yml.   make bench: what it costs.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Each file's tests run in one process, files beside each other.
# A process that dies fails its test and ends the run; with a new one in its place the run would wait for ever.
PYTEST ?= -q -n auto --dist loadfile --max-worker-restart 0

.PHONY: run test test-long image-test bench pictures lint format clean

run: $(VENV)/.demo-ready
	@$(BIN)/python demo/run.py

test: $(VENV)/.test-ready lint
	$(BIN)/python -m pytest $(PYTEST)

test-long: $(VENV)/.test-ready
	KNOCKER_TEST_LONG=1 $(BIN)/python -m pytest $(PYTEST) --timeout=900

# Builds the image and runs docker-compose.yml, with buildah and podman, as root; in minutes, and in a few GB below TMPDIR.
image-test: $(VENV)/.test-ready
	KNOCKER_TEST_IMAGE=1 $(BIN)/python -m pytest -q tests/image

bench: $(VENV)/.test-ready
	$(BIN)/python benchmarks/whitelist.py
	$(BIN)/python benchmarks/attack.py
	$(BIN)/python benchmarks/datagrams.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/scrape.py
	$(BIN)/python benchmarks/cluster.py

# The pictures of docs/images, as the page looks now.
pictures: $(VENV)/.test-ready
	KNOCKER_PICTURES=1 $(BIN)/python -m pytest -q tests/page/test_looks.py -k pictures

lint: $(VENV)/.test-ready
	$(BIN)/ruff check -q
	$(BIN)/ruff format -q --check
	$(BIN)/mypy --no-error-summary

format: $(VENV)/.test-ready
	$(BIN)/ruff check -q --fix
	$(BIN)/ruff format -q

clean:
	rm -f $(VENV)/pyvenv.cfg $(VENV)/.demo-ready $(VENV)/.test-ready
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Without pyvenv.cfg pip would install into the system: what is half there is made anew.
export PIP_REQUIRE_VIRTUALENV = 1
OFFLINE = { echo "pip could not install: is the network up? Packages come from PyPI, once" >&2; exit 1; }

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Knocker needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.demo-ready: setup.cfg pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "installing Knocker and Caddy into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[demo]' || $(OFFLINE)
	@touch $@

$(VENV)/.test-ready: setup.cfg pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "installing Knocker and its test tools into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[demo,test]' || $(OFFLINE)
	@touch $@
