# kvcd: everything a developer types. `make serve` and `make test` need nothing but Debian 12 and make.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?=
ARGS ?=
TEST_ARGS ?=
TEST_DEADLINE_S ?= 1500
# Root has all installed that the Soft-RoCE guest needs: then no verbs test may be left out.
REQUIRE_VERBS ?= $(shell test "$$(id -u) $$(uname -sm)" = "0 Linux x86_64" && command -v apt-get >/dev/null && echo 1 || echo 0)
# Client libraries come from PyPI and npm: where those cannot be reached their tests say so and are skipped, unless this is 1.
REQUIRE_CLIENTS ?= 0
TEST_ENVIRONMENT = REQUIRE_PROGRAMS=1 REQUIRE_VERBS=$(REQUIRE_VERBS) REQUIRE_CLIENTS=$(REQUIRE_CLIENTS)

RUN := $(VENV)/bin
# An image or a wheel is built by pip; here the modules are built in place, by the rules below.
COMPILED_SOURCES := $(shell find kvcd protocol storage -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
INSTALLED := $(VENV)/.installed
RELEASE := build/release.stamp
DEBUG := build/debug.stamp
TEST_PACKAGES := build/test-packages.stamp

.PHONY: help serve build debug test test-long mutants crash-run soak check docs bench bench-lmcache bench-restart bench-hit-ratio bench-workers docker-test clean distclean

help: ## this list
	@echo "kvcd: make TARGET"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo
	@echo '  make serve ARGS="--port 7000 --maxmemory 4gb"    any redis.conf directive as a flag'
	@echo '  make test TEST_ARGS="tests/protocol -k split"    any pytest argument'

serve: build ## build if sources changed, then serve on port 6379 with the embedded pool
	@exec $(RUN)/kvcd serve $(ARGS)

build: $(RELEASE) ## compile the modules in place

debug: $(DEBUG) ## the same with line tracing, assertions and bounds checks (`make build` goes back)

test: $(RELEASE) $(TEST_PACKAGES) ## the tests that every commit passes
	@$(TEST_ENVIRONMENT) timeout --foreground --kill-after=20 $(TEST_DEADLINE_S) $(RUN)/python -m pytest -m "not long" $(TEST_ARGS)

test-long: $(RELEASE) $(TEST_PACKAGES) ## all tests, the ones that take minutes too
	@$(TEST_ENVIRONMENT) KVCD_GUEST_DEADLINE_S=3600 $(RUN)/python -m pytest $(TEST_ARGS)

mutants: $(RELEASE) $(TEST_PACKAGES) ## seed every fault of tests/mutants in turn: some test must find it
	@$(RUN)/python -m tests.mutants $(ARGS)

crash-run: $(RELEASE) $(TEST_PACKAGES) ## kill workers under clients that judge every answer (10 minutes)
	@$(RUN)/python -m tests.crash $(ARGS)

soak: $(RELEASE) $(TEST_PACKAGES) ## full load: memory, descriptors and latency must stay flat (30 minutes)
	@$(RUN)/python -m tests.soak $(ARGS)

check: $(RELEASE) ## ruff, mypy strict, import directions
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/python -m pytest -q tests/test_imports.py

docs: $(RELEASE) ## make the pages that follow from tables: docs/compatibility.md, docs/configuration.md
	@$(RUN)/python -m kvcd.compatibility > build/page.md && mv build/page.md docs/compatibility.md
	@$(RUN)/python -m kvcd.configuration_reference > build/page.md && mv build/page.md docs/configuration.md

bench: $(RELEASE) $(TEST_PACKAGES) ## kvcd and redis-server in turn, as a table of ratios
	@$(RUN)/python -m bench $(ARGS)

bench-lmcache: $(RELEASE) $(TEST_PACKAGES) ## LMCache's connectors against kvcd and redis-server
	@$(RUN)/python -m bench.lmcache $(ARGS)

bench-restart: $(RELEASE) $(TEST_PACKAGES) ## from SIGKILL to the first GET that hits, beside redis-server loading its RDB
	@$(RUN)/python -m bench.restart $(ARGS)

bench-hit-ratio: $(RELEASE) $(TEST_PACKAGES) ## hit ratios of kvcd and redis-server with the same memory, beside the simulator's
	@$(RUN)/python -m bench.hit_ratio $(ARGS)

bench-workers: $(RELEASE) $(TEST_PACKAGES) ## throughput and processor time with 1, 2, 3 workers
	@$(RUN)/python -m bench.workers $(ARGS)

docker-test: ## build the image, bring the compose stack up, talk to it, take it down
	@docker/test

clean: ## remove what was built
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find kvcd protocol storage bench tests \( -name '*.so' -o -name '*.c' \) -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)

# The environment: the packages of pyproject.toml, and kvcd itself as an editable install without its compiled modules.
$(INSTALLED): pyproject.toml setup.py .ci/prepare
	@python=$$(PYTHON='$(PYTHON)' .ci/prepare build); \
	if ! test -x $(RUN)/python || ! $(RUN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); \
	fi; \
	echo "installing kvcd's packages into $(VENV)"; \
	$(RUN)/python -m pip install -qq --upgrade pip; \
	$(RUN)/python -m pip install -qq "setuptools>=77,<90" "Cython>=3.1,<4"; \
	KVCD_BUILD_EXTENSIONS=0 $(RUN)/python -m pip install -qq --no-build-isolation --editable '.[test]'; \
	touch $@

# The two modes share the place where Python looks, so making one unmakes the other.
$(RELEASE): $(INSTALLED) setup.py $(COMPILED_SOURCES)
	@if test -e $(DEBUG); then find kvcd protocol storage -name '*.so' -delete; rm -f $(DEBUG); fi
	@echo "compiling (release)"
	@mkdir -p build
	@$(if $(filter setup.py,$?),CYTHON_FORCE_REGEN=1,) $(RUN)/python setup.py --quiet build --build-base build/release \
	  build_ext --inplace $(if $(filter setup.py,$?),--force,) > build/release.log 2>&1 || { cat build/release.log; exit 1; }
	@touch $@

$(DEBUG): $(INSTALLED) setup.py $(COMPILED_SOURCES)
	@if test -e $(RELEASE); then find kvcd protocol storage -name '*.so' -delete; rm -f $(RELEASE); fi
	@echo "compiling (debug)"
	@mkdir -p build
	@KVCD_DEBUG=1 $(if $(filter setup.py,$?),CYTHON_FORCE_REGEN=1,) $(RUN)/python setup.py --quiet build --build-base build/debug \
	  build_ext --inplace $(if $(filter setup.py,$?),--force,) > build/debug.log 2>&1 || { cat build/debug.log; exit 1; }
	@touch $@

# After every change of the environment, which may have lost its link to Debian's pyverbs.
$(TEST_PACKAGES): .ci/prepare tests/rdma/kernel.py tests/clients/installed.py tests/clients/node/package-lock.json $(INSTALLED)
	@PYTHON=$(RUN)/python .ci/prepare test >/dev/null
	@$(RUN)/python -m tests.clients.installed
	@mkdir -p build && touch $@
