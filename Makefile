# Everything that is done with this repository, by name. `make help` lists it.

.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
# The root holds folders named like packages (proto/, client/): they must not be importable.
export PYTHONSAFEPATH := 1

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINES ?= .venv-engines
PYTHON ?= python3
# To build pyfuse3, which comes as source, and to mount.
SYSTEM_PACKAGES := fuse3 gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv
CODE := $(wildcard benchmarks client deploy kvcache meta mgmtd proto src storage tests)
PYTEST := $(BIN)/python -m pytest
# Tests with clusters and mounts stay in one of the two processes (tests/conftest.py).
PARALLEL := -n 2 --dist loadgroup

.PHONY: help setup run stop test test-engines rdma-guest test-rdma test-transports bench-rdma check
.PHONY: proto pjdfstest sim sim-mutants bench clean

help:  ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

setup: $(READY)  ## Install what is missing: Debian packages (as root), then .venv

$(READY): pyproject.toml
	@.ci/system-packages $(SYSTEM_PACKAGES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuse,dev,bench]'
	@touch $@

run: setup  ## Start a replicated cluster on this machine, mount it, copy real data through it
	@$(BIN)/python -m luciole.deploy.demo run

stop:  ## Stop what `make run` started; its data stay
	@[ ! -x $(BIN)/python ] || $(BIN)/python -m luciole.deploy.demo stop

test: setup  ## Run every test
	@$(PYTEST) $(PARALLEL)

# The kernel of the guest is compiled once, into GUEST_CACHE (three to six minutes on two cores).
GUEST_PACKAGES := bc bison build-essential flex ibverbs-providers iproute2 kmod perftest \
	python3-pyverbs rdma-core xz-utils
rdma-guest:  ## Build the guest with Soft-RoCE, and see it start
	@.ci/system-packages $(GUEST_PACKAGES)
	@tests/rdma/guest.sh rdma link

test-rdma: setup  ## Run the RDMA tests, in a guest with Soft-RoCE (docs/rdma.md)
	@.ci/system-packages $(GUEST_PACKAGES)
	@PYTHONPATH=$(CURDIR)/src tests/rdma/run.sh $(CURDIR)/$(BIN)/python -m pytest -rs tests/rdma

# TRANSPORTS names some of shm, tcp and rdma; CHAOS_MINUTES is for each of them.
test-transports: setup  ## Run integration and chaos by shared memory, TCP and RDMA (docs/testing.md)
	@.ci/system-packages $(GUEST_PACKAGES)
	@tests/transports.sh $(CURDIR)/$(BIN)/python $(TRANSPORTS)

bench-rdma: setup  ## Measure RDMA, shared memory and TCP in the guest, beside perftest
	@.ci/system-packages $(GUEST_PACKAGES)
	@PYTHONSAFEPATH= PYTHONPATH=$(CURDIR)/src:$(CURDIR) \
		tests/rdma/run.sh $(CURDIR)/$(BIN)/python -m benchmarks.rdma
	@PYTHONSAFEPATH= PYTHONPATH=$(CURDIR)/src:$(CURDIR) \
		$(CURDIR)/$(BIN)/python -m benchmarks.guest_transports

check: setup  ## Run linters, type checker, and the tests that are quick
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) $(PARALLEL) -m "not slow and not mount"

proto: setup  ## Generate the Python half of proto/ anew
	@$(BIN)/python -m luciole.proto.generate

# SEEDS=n runs seeds 0 to n-1; SEED=s one of them, with its whole trace in the file TRACE; CORE=1
# runs the pure cores on an event heap instead of whole services.
sim: setup  ## Simulate whole clusters: SEEDS=n, or SEED=s and TRACE=file (docs/testing.md)
	@$(BIN)/python -m luciole.tests.sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200)) \
		$(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(TRACE),--trace $(TRACE)) \
		$(if $(CORE),--core)

# PJDFSTEST=folder names a checkout of github.com/pjd/pjdfstest whose program was built.
pjdfstest: setup  ## Run the POSIX suite pjdfstest, as root, on a cluster of its own
	@$(BIN)/python -m pytest -rs tests/integration/test_pjdfstest.py

# Not part of `make test`: the engines take some 4 GB and minutes. ENGINES names their environment.
test-engines: $(ENGINES)/.ready  ## Run the KV cache's connectors in vLLM, SGLang and LMCache
	@$(ENGINES)/bin/python -m pytest -o filterwarnings=default --durations=0 tests/engines

$(ENGINES)/.ready: tests/engines/install.py pyproject.toml
	@$(PYTHON) tests/engines/install.py $(ENGINES)

sim-mutants: setup  ## See that the simulator catches deliberate breaks of the rules
	@$(BIN)/python -m luciole.tests.sim --mutants

# Peers are measured if their programs are installed (docs/performance.md says which); OPTIONS="-h"
# tells what can be chosen.
bench: setup  ## Measure a cluster on this machine beside the disk and other filesystems
	@$(BIN)/luciole bench --out build/bench $(OPTIONS)

clean:  ## Remove what was built and cached, .venv included; clusters stay
	@rm -rf $(VENV) .venv-engines build dist src/*.egg-info
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
