# Every command of the project. `make` alone lists them.

PYTHON ?= python3
PORT ?= 8787
DATA ?= .data

VENV := .venv
# The machine's Node may be too old: the one from package-lock.json runs everything.
NODE := node_modules/.bin/node
# Installed once per change of what is locked.
PY_READY := $(VENV)/.ready
JS_READY := node_modules/.ready
VENDORED := $(VENV)/.vendored
BUNDLE := build/python/bundle.sha256
# A compiler from PyPI, for clients that are built from source: the machine's may be too old.
GO := .go/bin/go
GO_READY := build/go/.ready
GO_CLIENTS := build/go/.clients-ready
PUSH := $(VENV)/bin/registry-push

# Inputs of `make fuzz` in workerd.
FUZZ_IN_WORKERD := $(if $(COUNT),$(COUNT),100000)

.DEFAULT_GOAL := help
.PHONY: help serve dev test unit workerd attacks conformance clients ops fuzz smoke bench bench-memory bench-large bench-push lint types format install vendor constraints clean
.DELETE_ON_ERROR:

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'

serve: $(JS_READY) $(VENDORED) ## run the registry on http://localhost:8787 (PORT=, DATA=, STATS=1)
	@PORT=$(PORT) DATA=$(DATA) exec $(NODE) runtime/serve.mjs

# What `npx wrangler dev --env dev` does, with the bundle in place of the one that workerd downloads.
dev: $(BUNDLE) $(VENDORED) ## run the registry in wrangler dev, without internet; needs your wrangler.toml and .dev.vars (PORT=)
	@MINIFLARE_WORKERD_PATH=$(dir $(BUNDLE))workerd WRANGLER_SEND_METRICS=false $(NODE) node_modules/wrangler/bin/wrangler.js dev --env dev --port $(PORT) \
		--compatibility-flags python_workers --compatibility-flags python_workers_development

test: lint types unit workerd ## everything that needs no docker: lint, types, pytest, and the same in real workerd

unit: $(PY_READY) ## unit, property and contract tests on the fake bindings
	$(VENV)/bin/pytest

workerd: $(JS_READY) $(VENDORED) ## the contract suite and API tests inside real workerd
	$(NODE) --test --test-reporter=spec tests/workerd/*.test.mjs

attacks: $(JS_READY) $(VENDORED) ## attacks on the registry in real workerd; one file a kind in tests/attacks
	$(NODE) --test --test-reporter=spec tests/attacks/*.test.mjs

conformance: $(PY_READY) $(JS_READY) $(VENDORED) $(GO_READY) ## the official suite of the distribution specification; reports in build/conformance
	$(VENV)/bin/pytest -o addopts= -rP tests/conformance

clients: $(PY_READY) $(JS_READY) $(VENDORED) $(GO_CLIENTS) $(PUSH) ## real clients (docs/clients.md) against the local registry (tests/clients/install.sh installs them)
	$(VENV)/bin/pytest -o addopts= tests/clients

ops: $(PY_READY) ## the R2 calls that every flow costs, beside their budgets (JSON=1 for a machine)
	@PYTHONPATH=src:. $(VENV)/bin/python -m tests.ops

fuzz: $(PY_READY) $(JS_READY) $(VENDORED) ## a million inputs for the parsers, and a tenth of them in workerd (COUNT=, SEED=)
	@PYTHONPATH=src:. $(VENV)/bin/python -m tests.fuzz
	@COUNT=$(FUZZ_IN_WORKERD) $(NODE) tests/workerd/fuzz.mjs

smoke: $(PY_READY) ## push, pull and delete at a deployed registry: URL=https://… USERNAME= PASSWORD=
	@PYTHONPATH=. $(VENV)/bin/python -m tests.smoke

bench: $(JS_READY) $(VENDORED) ## speed beside a bare Worker and docker-registry, in one run (JSON=1, ONLY=bytes,..., BUDGET=1 to fail when one is missed)
	@$(NODE) bench/bench.mjs

bench-memory: $(JS_READY) $(VENDORED) ## peak memory of many uploads at once, and of one large layer
	@$(NODE) bench/memory.mjs

bench-large: $(JS_READY) $(VENDORED) ## a layer above 5 GiB goes through once (SIZE_GIB=5.5; takes twice that on disk)
	@$(NODE) bench/large.mjs

bench-push: $(PY_READY) $(JS_READY) $(VENDORED) $(PUSH) ## memory of registry-push and its proxy with one large layer (SIZE_GIB=2)
	@PYTHONPATH=. $(VENV)/bin/python -m bench.push

lint: $(PY_READY) ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(PY_READY) ## mypy, strict
	$(VENV)/bin/mypy

format: $(PY_READY) ## let ruff format and fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

install: $(PY_READY) $(BUNDLE) $(VENDORED) ## install what the other commands need, into this folder only

# Pinned with hashes, without a registry's address: pip and npm use the ones that are set up on this machine.
$(PY_READY): constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@

$(JS_READY): package-lock.json
	npm ci --no-fund --no-audit --loglevel=error
	@touch $@

# Pyodide as workerd takes it. Whatever starts workerd makes it when it is not there; this is for wrangler dev.
$(BUNDLE): runtime/bundle.mjs $(JS_READY)
	$(NODE) runtime/bundle.mjs
	@touch $@

# What ships in the Worker, as `pywrangler sync` vendors it. That downloads an interpreter; this does not.
vendor: $(PY_READY) ## put into python_modules what ships in the Worker, verified; `npx wrangler deploy` takes it from there
	rm -rf python_modules
	awk '/^[a-z]/ { ships = /^(pyjwt|workers-runtime-sdk)==/ } ships' constraints.txt > $(VENDORED).txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --no-compile \
		--target python_modules --require-hashes -r $(VENDORED).txt
	@touch $(VENDORED)

$(VENDORED): constraints.txt $(PY_READY)
	@$(MAKE) --no-print-directory vendor

# The push tool as its users install it. uv builds with the backend that it brings.
$(PUSH): push/pyproject.toml $(wildcard push/src/registry_push/*.py) $(PY_READY)
	rm -rf build/push
	$(VENV)/bin/uv build --quiet --offline --wheel --out-dir build/push push
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall build/push/*.whl
	@touch $@

$(GO): tests/clients/go-constraints.txt
	$(PYTHON) -m venv .go
	.go/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(GO_READY): tests/clients/go-tools.txt $(GO)
	grep -v '^#' $< | GOBIN=$(CURDIR)/build/go/bin xargs -n 1 $(GO) install
	@touch $@

# What only `make clients` needs; these take minutes to compile. BuildKit's go.mod excludes versions, so that it must be
# the main module.
$(GO_CLIENTS): tests/clients/go-clients.txt $(GO_READY)
	grep -v '^#' $< | grep -v moby/buildkit | GOBIN=$(CURDIR)/build/go/bin xargs -n 1 $(GO) install
	rm -rf build/go/buildkit
	cp -r "$$($(GO) mod download -json $$(grep moby/buildkit $<) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" build/go/buildkit
	chmod -R u+w build/go/buildkit
	cd build/go/buildkit && GOBIN=$(CURDIR)/build/go/bin $(CURDIR)/$(GO) install -mod=mod ./cmd/buildctl ./cmd/buildkitd
	rm -rf build/go/buildkit
	@touch $@

constraints: $(PY_READY) $(JS_READY) ## pin the newest versions that pyproject.toml allows, and what ships of them file by file
	$(VENV)/bin/uv pip compile pyproject.toml push/pyproject.toml --group dev --universal --generate-hashes --no-header --no-annotate \
		--output-file constraints.txt
	@$(MAKE) --no-print-directory vendor
	$(NODE) tools/vendored.mjs --write

clean: ## remove what was installed and built, but not the data
	rm -rf $(VENV) .go build node_modules python_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
