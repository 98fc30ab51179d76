# Everything a person or a machine does with this tree. `make` alone lists the targets.
#
# Settable from outside: PYTHON (which interpreter makes .venv), CONFIG, DATA and SERVE_ARGS (make serve), JOBS (in how many
# processes tests run), TEST_ARGS (handed to pytest), BENCH_ARGS (handed to the benchmark), LOCK_ARGS (handed to uv, e.g.
# --upgrade), TARGET and SECONDS (make fuzz: which readers, all by default, and for how long each), FUZZ_TIMES (how many times as
# many examples as make test Hypothesis tries in make fuzz).

PYTHON ?= python3
JOBS ?= 3
TARGET ?=
SECONDS ?= 600
FUZZ_TIMES ?= 20
CONFIG ?= config/tagstone.yaml
DATA ?= data
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" --no-emit-index-url --no-emit-find-links $(LOCK_ARGS)
# What is installed stays installed until one of these files says otherwise.
RUNTIME := $(VENV)/.runtime
DEVELOPMENT := $(VENV)/.development

.DEFAULT_GOAL := help
.PHONY: help serve test coverage lint format fuzz bench lock clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(RUNTIME) ## Install what is needed and start Tagstone with CONFIG, its state under DATA
	@exec $(BIN)/tagstone serve --config $(CONFIG) --data-dir $(DATA) $(SERVE_ARGS)

test: $(DEVELOPMENT) packages lint ## Check format, lint, types and layers, then run every test
	$(BIN)/python -m pytest --numprocesses $(JOBS) $(TEST_ARGS)

coverage: $(DEVELOPMENT) packages ## Run every test and say which lines none of them reaches
	$(BIN)/python -m pytest --numprocesses $(JOBS) --cov --cov-report=term $(TEST_ARGS)

lint: $(DEVELOPMENT) ## Check format, lint, types and layers, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEVELOPMENT) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(DEVELOPMENT) ## Fuzz every TARGET for SECONDS, led by coverage; without a TARGET, then by Hypothesis too
	$(BIN)/python -m tests.fuzz run --seconds $(SECONDS) $(TARGET)
	$(if $(TARGET),,FUZZ_TIMES=$(FUZZ_TIMES) $(BIN)/python -m pytest tests/fuzz --ignore tests/fuzz/test_guided.py $(TEST_ARGS))

bench: $(DEVELOPMENT) packages ## Measure against docker-registry and nginx; writes bench.json
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

lock: $(DEVELOPMENT) ## Write all lock files anew from pyproject.toml
	$(COMPILE) --group build --output-file requirements.lock
	$(COMPILE) --all-extras --group build --constraint requirements.lock --output-file requirements-extras.lock
	$(COMPILE) --group dev --constraint requirements-extras.lock --output-file requirements-dev.lock

clean: ## Remove caches and build output; leave .venv and DATA alone
	rm -rf build dist htmlcov bench.json .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: packages
packages:
	@.ci/packages git curl docker-registry skopeo podman containerd docker.io nftables nginx wrk busybox-static gnupg prometheus-alertmanager

# venv installs pip last: where pip is, the environment is whole.
$(BIN)/pip:
	@.ci/venv "$(PYTHON)" $(VENV)

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/pip
	@echo "installing requirements.lock"
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q proxy storage config
	@touch $@

$(DEVELOPMENT): requirements-dev.lock $(RUNTIME)
	@echo "installing requirements-dev.lock"
	@$(PIP) install --require-hashes --requirement requirements-dev.lock
	@touch $@
