# Everything a developer or an operator does, by name: `make help`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
TOPOLOGY ?= eight-kmes
LAB ?=
TLS ?=
CLUSTER ?=
STANDBY ?=
PYTEST_ARGS ?=
BENCH_VENV ?= .venv-bench
PARTS ?=
KILLS ?= 400
RELAYS ?= 2000
SITES ?= 300
ATTACKS ?= 20000
FUZZ ?= 20
SEED ?=
COMPOSE := infra/docker/compose.sh
WITH_IMAGES := infra/docker/with-images.sh
INSTALLED := $(VENV)/.installed
# --lab --tls --cluster --standby, as LAB, TLS, CLUSTER and STANDBY say
on = $(if $(filter-out 0 false no,$(1)),$(2))
SWITCHES = $(strip $(call on,$(LAB),--lab) $(call on,$(TLS),--tls) $(call on,$(CLUSTER),--cluster) \
  $(call on,$(STANDBY),--standby))

.PHONY: help demo test bench chaos up certs down status logs screenshots lint lock wheelhouse clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## the whole network in one process: the reference scenario, told step by step
	@$(BIN)/coordinator demo

test: $(INSTALLED) ## all tests; installs and starts a Docker engine if there is none
	$(WITH_IMAGES) --oldest infra/test.sh $(BIN)/pytest $(PYTEST_ARGS)

up: $(INSTALLED) ## a network in containers (TOPOLOGY=nsfnet LAB=1 TLS=1 CLUSTER=1 STANDBY=1)
	@$(WITH_IMAGES) infra/docker/up.sh $(BIN)/python $(TOPOLOGY) $(SWITCHES)

certs: $(INSTALLED) ## certificates for TLS to the broker, into deploy/tls/ (`make up TLS=1` does it, too)
	@$(BIN)/coordinator certs $(TOPOLOGY) --out .

down: ## stop the containers; volumes and secrets stay
	@infra/docker/remove.sh

status: ## which services are healthy, and why the others are not
	@infra/docker/status.sh

logs: ## follow the containers' logs
	@$(COMPOSE) logs --follow --tail 200

bench: $(BENCH_VENV)/.installed ## measure, into docs/performance/ (PARTS="broker sharing" for some only)
	$(WITH_IMAGES) infra/bench.sh $(BENCH_VENV)/bin/python $(PARTS)

chaos: $(INSTALLED) ## long attacks and kills, with figures (KILLS= RELAYS= SITES= SEED=)
	$(WITH_IMAGES) infra/chaos.sh $(BIN)/python $(KILLS) $(RELAYS) $(SITES) $(ATTACKS) $(FUZZ) $(SEED)

screenshots: $(INSTALLED) ## make the pictures of the page in docs/ anew, in Chromium
	@infra/ensure-chromium.sh
	@PYTHONPATH=tests $(BIN)/python -m support.screenshots

lint: $(INSTALLED) ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: ## resolve the dependencies anew, into the lock files
	infra/lock.sh $(PYTHON)

wheelhouse: $(INSTALLED) ## fetch what the image is built from, so that it can be built without a network
	rm -rf wheelhouse
	$(BIN)/python -m pip download -q --require-hashes --only-binary :all: -d wheelhouse \
	  -r requirements.lock -r infra/image/build.lock

clean: ## stop all; delete volumes, secrets, the environment and caches
	@infra/docker/remove.sh --volumes
	rm -rf .env deploy $(VENV) $(BENCH_VENV) wheelhouse build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find services shared tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements-dev.lock pyproject.toml infra/venv.sh
	@infra/venv.sh $(PYTHON) $(VENV)
	@touch $@

$(BENCH_VENV)/.installed: requirements-bench.lock pyproject.toml infra/venv.sh
	@infra/venv.sh $(PYTHON) $(BENCH_VENV) requirements-bench.lock
	@touch $@
