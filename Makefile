# Every command of the project. `make` alone lists them.

PYTHON ?= python3
PORT ?= 8787
DATA ?= .data

VENV := .venv
# Everything runs on the Node of package-lock.json, because the machine's may be too old.
NODE := node_modules/.bin/node
# Stamp files: each installation is repeated only when its lock file changes.
PY_READY := $(VENV)/.ready
# An empty virtual environment, which is enough to vendor the Worker's packages.
PIP := $(VENV)/bin/pip
JS_READY := node_modules/.ready
VENDORED := $(VENV)/.vendored
BUNDLE := build/python/bundle.sha256
# A Go compiler from PyPI builds clients from source, because the machine's may be too old.
GO := .go/bin/go
GO_READY := build/go/.ready
GO_CLIENTS := build/go/.clients-ready
# Clients that take more than a minute to build: with NEWEST=1.
GO_NEWEST := build/go/.newest-ready
PY_CLIENTS := build/py/.ready
JS_CLIENTS := build/npm/.ready
PUSH := $(VENV)/bin/registry-push
TWINE_READY := build/twine/.ready

# Number of inputs that `make fuzz` tries in workerd.
FUZZ_IN_WORKERD := $(if $(COUNT),$(COUNT),100000)

.DEFAULT_GOAL := help
.PHONY: help machine serve dev test unit workerd attacks conformance clients package ops fuzz smoke bench bench-memory bench-large bench-push lint types format install vendor constraints clean
.DELETE_ON_ERROR:

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'

serve: $(JS_READY) $(VENDORED) ## run the registry on http://localhost:8787 (PORT=, DATA=, STATS=1)
	@PORT=$(PORT) DATA=$(DATA) exec $(NODE) runtime/serve.mjs

# What `npx wrangler dev --env dev` does, with the bundle in place of the one that workerd downloads.
dev: $(BUNDLE) $(VENDORED) ## run the registry in wrangler dev, without internet; needs your wrangler.toml and .dev.vars (PORT=)
	@MINIFLARE_WORKERD_PATH=$(dir $(BUNDLE))workerd WRANGLER_SEND_METRICS=false $(NODE) node_modules/wrangler/bin/wrangler.js dev --env dev --port $(PORT) \
		--compatibility-flags python_workers --compatibility-flags python_workers_development

test: lint types unit workerd ## lint, types, pytest, and the tests in workerd; needs no docker

unit: $(PY_READY) ## unit, property and contract tests on fake bindings
	$(VENV)/bin/pytest

workerd: $(PY_READY) $(JS_READY) $(VENDORED) ## contract and API tests in workerd
	$(NODE) --test --test-reporter=spec tests/workerd/*.test.mjs

attacks: $(JS_READY) $(VENDORED) ## attacks on the registry in workerd (tests/attacks)
	$(NODE) --test --test-reporter=spec tests/attacks/*.test.mjs

conformance: $(PY_READY) $(JS_READY) $(VENDORED) $(GO_READY) ## official conformance suite of the distribution specification; reports in build/conformance
	$(VENV)/bin/pytest -o addopts= -rP tests/conformance

clients: $(PY_READY) $(JS_READY) $(VENDORED) $(GO_CLIENTS) $(if $(NEWEST),$(GO_NEWEST)) $(PY_CLIENTS) $(JS_CLIENTS) $(PUSH) ## real clients (docs/clients.md) against the local registry (tests/clients/install.sh installs them; NEWEST=1 for more)
	NEWEST=$(NEWEST) $(VENV)/bin/pytest -o addopts= tests/clients

package: $(PY_READY) $(TWINE_READY) ## build registry-push for PyPI and check it with twine; the files are in build/package
	rm -rf build/package
	$(VENV)/bin/uv build --quiet --offline --out-dir build/package push
	build/twine/bin/twine check --strict build/package/*

ops: $(PY_READY) $(JS_READY) ## count the R2 calls of every flow and compare them with budgets (JSON=1, ONLY=post,...)
	@PYTHONPATH=src:. $(VENV)/bin/python -m tests.ops

fuzz: $(PY_READY) $(JS_READY) $(VENDORED) ## fuzz the parsers: a million inputs, and a tenth of them in workerd (COUNT=, SEED=)
	@PYTHONPATH=src:. $(VENV)/bin/python -m tests.fuzz
	@COUNT=$(FUZZ_IN_WORKERD) $(NODE) tests/workerd/fuzz.mjs

smoke: $(PY_READY) ## push to, pull from and delete from a deployed registry: URL=https://… USERNAME= PASSWORD= (LARGE=0: not its body limit)
	@PYTHONPATH=. $(VENV)/bin/python -m tests.smoke

bench: $(JS_READY) $(VENDORED) ## compare the speed with a bare Worker and docker-registry (JSON=1, ONLY=bytes,..., BUDGET=1: fail on a missed budget)
	@$(NODE) bench/bench.mjs

bench-memory: $(JS_READY) $(VENDORED) ## peak memory of concurrent uploads, and of one large layer
	@$(NODE) bench/memory.mjs

bench-large: $(JS_READY) $(VENDORED) ## push one layer above 5 GiB (SIZE_GIB=5.5; needs twice that on disk)
	@$(NODE) bench/large.mjs

bench-push: $(PY_READY) $(JS_READY) $(VENDORED) $(PUSH) ## memory of registry-push and its proxy with one large layer (SIZE_GIB=2)
	@PYTHONPATH=. $(VENV)/bin/python -m bench.push

lint: $(PY_READY) ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(PY_READY) ## mypy, strict
	$(VENV)/bin/mypy

format: $(PY_READY) ## format and fix with ruff
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

install: $(PY_READY) $(BUNDLE) $(VENDORED) ## install the dependencies of the other commands, into this folder only

# The lock files pin hashes but no addresses: pip and npm use the registries that are configured on the machine.
machine:
	@tools/check-machine "$(PYTHON)" "$(VENV)"

# --clear, because an interrupted or older installation may have left files of another Python.
$(PIP): | machine
	$(PYTHON) -m venv --clear $(VENV)

$(PY_READY): constraints.txt | $(PIP)
	$(PIP) install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@

$(JS_READY): package-lock.json | machine
	npm ci --no-fund --no-audit --loglevel=error
	@touch $@

# Pyodide as workerd takes it. Whatever starts workerd makes it when it is not there; this is for wrangler dev.
$(BUNDLE): runtime/bundle.mjs $(JS_READY)
	$(NODE) runtime/bundle.mjs
	@touch $@

# Vendors the Worker's packages as `pywrangler sync` does, but without downloading an interpreter.
vendor: $(PIP) ## install the Worker's packages into python_modules, with hashes checked; `npx wrangler deploy` uploads them
	rm -rf python_modules
	awk '/^[a-z]/ { ships = /^(pyjwt|workers-runtime-sdk)==/ } ships' constraints.txt > $(VENDORED).txt
	$(PIP) install --quiet --disable-pip-version-check --no-deps --only-binary :all: --no-compile \
		--target python_modules --require-hashes -r $(VENDORED).txt
	@touch $(VENDORED)

$(VENDORED): constraints.txt | $(PIP)
	@$(MAKE) --no-print-directory vendor

# Builds and installs the push tool as its users do. uv brings the build backend.
$(PUSH): push/pyproject.toml $(wildcard push/src/registry_push/*.py) $(PY_READY)
	rm -rf build/push
	$(VENV)/bin/uv build --quiet --offline --wheel --out-dir build/push push
	$(PIP) install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall build/push/*.whl
	@touch $@

$(TWINE_READY): tests/push/twine-constraints.txt
	$(PYTHON) -m venv build/twine
	build/twine/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(GO): tests/clients/go-constraints.txt
	$(PYTHON) -m venv .go
	.go/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(GO_READY): tests/clients/go-tools.txt $(GO)
	grep -v '^#' $< | GOBIN=$(CURDIR)/build/go/bin xargs -n 1 $(GO) install
	@touch $@

# Only `make clients` needs these, and they take minutes to compile. BuildKit must be the main module, because its go.mod
# excludes versions.
$(GO_CLIENTS): tests/clients/go-clients.txt $(wildcard tests/clients/containers-image/* tests/clients/notation/*) $(GO_READY)
	grep -v '^#' $< | grep -v moby/buildkit | GOBIN=$(CURDIR)/build/go/bin xargs -n 1 $(GO) install
	rm -rf build/go/buildkit
	cp -r "$$($(GO) mod download -json $$(grep moby/buildkit $<) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" build/go/buildkit
	chmod -R u+w build/go/buildkit
	cd build/go/buildkit && GOBIN=$(CURDIR)/build/go/bin $(CURDIR)/$(GO) install -mod=mod ./cmd/buildctl ./cmd/buildkitd
	rm -rf build/go/buildkit
	for program in containers-image notation; do \
		(cd tests/clients/$$program && GOBIN=$(CURDIR)/build/go/bin \
			$(CURDIR)/$(GO) install -tags 'containers_image_openpgp exclude_graphdriver_btrfs' .) || exit; \
	done
	@touch $@

# flux's go.mod replaces modules, so that it must be the main module; what `flux install` applies is not in the module, and
# is not asked for here.
$(GO_NEWEST): tests/clients/go-newest.txt $(GO_CLIENTS)
	grep -v '^#' $< | grep -v fluxcd | GOBIN=$(CURDIR)/build/go/bin xargs -n 1 $(GO) install
	rm -rf build/go/flux
	cp -r "$$($(GO) mod download -json $$(grep fluxcd $<) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" build/go/flux
	chmod -R u+w build/go/flux
	mkdir build/go/flux/cmd/flux/manifests
	touch build/go/flux/cmd/flux/manifests/none.yaml
	cd build/go/flux && GOBIN=$(CURDIR)/build/go/bin $(CURDIR)/$(GO) install ./cmd/flux
	rm -rf build/go/flux
	@touch $@

$(PY_CLIENTS): tests/clients/py-constraints.txt
	$(PYTHON) -m venv build/py
	build/py/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(JS_CLIENTS): tests/clients/npm/package-lock.json
	mkdir -p build/npm
	cp tests/clients/npm/package.json tests/clients/npm/package-lock.json build/npm
	npm ci --prefix build/npm --no-fund --no-audit --loglevel=error
	@touch $@

constraints: $(PY_READY) $(JS_READY) ## pin the newest versions that pyproject.toml allows; write vendored.sha256
	$(VENV)/bin/uv pip compile pyproject.toml push/pyproject.toml --group dev --universal --generate-hashes --no-header --no-annotate \
		--output-file constraints.txt
	@$(MAKE) --no-print-directory vendor
	$(NODE) tools/vendored.mjs --write

clean: ## remove everything that was installed or built; keeps the data
	rm -rf $(VENV) .go build node_modules python_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
