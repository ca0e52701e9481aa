# `make demo` and `make test` need Python >= 3.11 and nothing else: they make .venv themselves.
# DEVICE=cuda installs FBGEMM's CUDA build. PYTHON=python3.12 picks an interpreter. WORKERS=8
# runs the tests in as many processes.

PYTHON ?= python3
DEVICE ?= cpu
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SETS := $(filter-out requirements/policy.txt requirements/docs.txt,$(wildcard requirements/*.txt)) $(wildcard recsys/operators/*.cpp recsys/operators/*.h recsys/operators/search/*) pyproject.toml setup.py
# Its name holds what was installed, so that a second call installs nothing and a changed pin or a new compiler does.
STAMP := $(VENV)/.installed-$(DEVICE)-$(shell (cat $(SETS); command -v c++ g++) | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install demo test prove fuzz check audit policy docs docs-serve format protos wheel images bench-quick hosts-train hosts-redis clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

install: $(STAMP)  ## Install everything into .venv: torch first, then the rest

demo: $(STAMP)  ## The whole way on real data: train, export, ingest, serve, rank (about 2 minutes)
	@$(BIN)/recsys demo

# Two processes of one thread each: two with threads of their own would wait for each other.
test: check  ## Every check, then every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

prove: $(STAMP)  ## The tests that prove more and take longer (docs/contribute/prove.md has the last result)
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/prove.py --numprocesses $(WORKERS) --dist worksteal

SECONDS ?= 60
fuzz: $(STAMP)  ## Fuzz every decoder of bytes for SECONDS each, and keep what reaches new code (tests/fuzz)
	@$(BIN)/python -c 'import atheris' 2> /dev/null || $(PIP) install 'atheris>=3.0'
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

check: $(STAMP)  ## Format, lint, types, layers, generated code
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo > $(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }

audit: $(STAMP)  ## Known vulnerabilities of the installed packages (pip-audit), where they can be looked up
	@$(BIN)/python scripts/audit.py

POLICY := .venv-policy
policy: $(STAMP)  ## Schemas of three versions of Kubernetes and checkov on deploy/k8s (an environment of its own)
	@test -x $(POLICY)/bin/checkov || $(PYTHON) -m venv $(POLICY)
	@$(POLICY)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/policy.txt
	@$(BIN)/python deploy/k8s/policy.py

SITE := .venv-docs
SITE_STAMP := $(SITE)/.installed-$(shell cksum < requirements/docs.txt | cut -d' ' -f1)
docs: $(SITE_STAMP)  ## The documentation as a site in site/, every link checked (an environment of its own)
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet
	@$(SITE)/bin/python scripts/docs/built.py

docs-serve: $(SITE_STAMP)  ## The same on http://127.0.0.1:8000, made again when a page changes
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs serve

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

protos: $(STAMP)  ## Generate the gRPC code from protos/
	@$(BIN)/python scripts/generate_protos.py

wheel: $(STAMP)  ## Source distribution and wheel into dist/; TARGET=aarch64-linux-gnu.2.28 compiles for another machine
	@$(BIN)/python scripts/build_wheel.py $(if $(TARGET),--target $(TARGET))

images: $(STAMP)  ## Say how to build the container images (docs/operate/images.md)
	@$(BIN)/python scripts/build_images.py

bench-quick: $(STAMP)  ## Every benchmark's quick form
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file --quick || exit 1; done

hosts-train: $(STAMP)  ## Train over several hosts (network namespaces) and lose one; what a second brings (needs root)
	@$(BIN)/python benchmarks/deploy.py --quick --only hosts

hosts-redis: $(STAMP)  ## Cut off a node of a Redis Cluster, then one of three rankers, and count calls (needs root)
	@$(BIN)/python benchmarks/deploy.py --quick --only cluster

clean:  ## Remove the environment and what the demo left; other runs stay
	rm -rf $(VENV) $(POLICY) $(SITE) site runs/demo

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "recsys needs Python 3.11 to 3.13; $(PYTHON) is another. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@echo "installing into $(VENV): torch first, then the rest (a few minutes the first time)"
	@$(PIP) install -r requirements/torch.txt
	@$(PIP) install -r requirements/train-$(DEVICE).txt -r requirements/dev.txt
	@$(PIP) install --no-deps -r requirements/torchrec.txt
	@rm -f recsys/operators/*.so  # one that does not compile any more must not stay
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(SITE_STAMP): requirements/docs.txt
	@test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	@rm -f $(SITE)/.installed-*
	@$(SITE)/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@
