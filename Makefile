# The entry points for people and CI. `make help` lists them.

PYTHON ?= python3
FEED ?=
PROCESS ?= aggregator
ARGS ?=
SEEDS ?= 10
# Test processes; more than cores, because tests mostly wait.
WORKERS ?= 4
SEED ?=
MINUTES ?= 30
RATE ?= 2000
SOCKETS ?= 300
N ?= 2000
PEER ?= daphne
# Of `make demo`: evm (with RPC and CHAIN) or an exchange (with SYMBOLS); empty: recorded trades.
SOURCE ?=
CHAIN ?= ethereum
OF_USD := $(filter coinbase kraken,$(SOURCE))
IN_USD := BTC/USD,ETH/USD,SOL/USD
IN_USDT := BTC/USDT,ETH/USDT,SOL/USDT
SYMBOLS ?= $(if $(OF_USD),$(IN_USD),$(IN_USDT))
OF_CHAIN = evm --chain $(CHAIN) --rpc-env RPC
OF_EXCHANGE = exchange --venue $(SOURCE) --symbols $(SYMBOLS) $(if $(OF_USD),,--assume-par USDT)
TRADES = $(if $(SOURCE),--source "$(if $(filter evm,$(SOURCE)),$(OF_CHAIN),$(OF_EXCHANGE))",--feed)

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps
LOCK := $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options --strip-extras --allow-unsafe --no-header
PIP_LOG := .venv/pip.log
RUNTIME := requirements.txt requirements-embedded.txt
STARTED := $(shell date +%s)

# The tests start hundreds of processes: without bytecode each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

# $(call stage,NAME,COMMANDS): print the name, run the commands, print the seconds
stage = @begun=$$(date +%s); echo "== $(1)"; $(2) && echo "== $(1): $$(($$(date +%s) - begun)) s"

.PHONY: help setup setup-dev demo demo-chain up down kill lint test compile chaos gameday audit lock clean \
	bench-ingest bench-decode bench-restore bench-scale bench-latency bench-fanout bench-e2e bench-history bench-rest bench-pages bench-archive bench-ingest-http \
	bench-sources

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## create .venv with the locked requirements, if they changed

setup-dev: .venv/.installed-dev ## the same with the tools for tests; as root also a browser and nginx
	@.ci/browser
	@.ci/nginx

demo: setup ## run engines, service and real trades until Ctrl-C; SOURCE=evm RPC=wss://… or SOURCE=binance: live ones
	@DEMO_STARTED=$(STARTED) exec $(BIN)/python -m infra.embedded run --dir var/demo --fresh $(TRADES) $(ARGS)

demo-chain: setup ## a chain on this machine with real Uniswap contracts, traders and a source; needs npm once
	@DEMO_STARTED=$(STARTED) exec $(BIN)/python -m infra.chain run $(ARGS)

up: setup ## the same in the background, with trades if FEED=1; addresses in var/stack.env
	@DEMO_STARTED=$(STARTED) $(BIN)/python -m infra.embedded up --service $(if $(filter 1,$(FEED)),--feed) $(ARGS)

down: setup ## stop what `make up`, `make demo` or `make demo-chain` started
	@if [ -e var/chain/stack.lock ]; then $(BIN)/python -m infra.embedded down --dir var/chain; fi
	@if [ -e var/demo/stack.lock ]; then $(BIN)/python -m infra.embedded down --dir var/demo; fi
	@$(BIN)/python -m infra.embedded down $(ARGS)

kill: setup ## kill -9 PROCESS=aggregator (archiver, web, feed, source) of a demo or `make up`; it is restarted
	@$(BIN)/python -m infra.embedded kill $(PROCESS) $(firstword $(foreach each,demo chain,\
		$(if $(wildcard var/$(each)/stack.env),--dir=var/$(each)))) $(ARGS)

lint: .venv/.installed-dev ## ruff, mypy and import-linter; the pre-commit hook runs it too
	$(call stage,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
	$(call stage,types,$(BIN)/mypy)
	$(call stage,layers,$(BIN)/lint-imports)

# As long as `types` runs on one core, the loops compile on another.
test: setup-dev ## everything that CI checks: lint, types, layers, tests
	@$(MAKE) --no-print-directory -j2 lint compile
	$(call stage,tests,$(BIN)/python -m pytest -n $(WORKERS) --durations=15 --durations-min=1 $(ARGS))
	@echo "== all: $$(($$(date +%s) - $(STARTED))) s"

compile: .venv/.installed-dev
	$(call stage,compile,$(BIN)/python manage.py compile_engine)

chaos: setup-dev ## the simulator of the rules, then SEEDS=100 random schedules of faults; SEED=7 repeats one
	@$(BIN)/python -m tests.model all -n 2000
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)
	@$(BIN)/python -m tests.chaos.archive $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

gameday: setup-dev ## MINUTES=30 with one fault a minute, RATE=2000, SOCKETS=300, SEED=n; ARGS=--help
	@$(BIN)/python -m tests.gameday --minutes $(MINUTES) --rate $(RATE) --sockets $(SOCKETS) \
		--seed $(or $(SEED),0) $(ARGS)

bench-ingest: setup ## events/s from Kafka to the windows; the last line is one JSON object
	@$(BIN)/python -m bench.ingest $(ARGS)

bench-decode: setup ## CPU time of decoding one event
	@$(BIN)/python -m bench.decode $(ARGS)

bench-restore: setup ## 24 h of state: snapshot pause, memory, time from start to the first applied swap
	@$(BIN)/python -m bench.restore $(ARGS)

bench-scale: setup ## events/s with 2,000 to 200,000 tokens, and with a second process
	@$(BIN)/python -m bench.scale $(ARGS)

bench-archive: setup ## rows/s into ClickHouse, bytes per row; ARGS="--outage 600" stops ClickHouse
	@$(BIN)/python -m bench.archive $(ARGS)

bench-latency: setup ## latency from produce() to the patch on NATS, p50 and p99
	@$(BIN)/python -m bench.latency $(ARGS)

bench-fanout: setup ## fan-out to N=2000 WebSocket clients; PEER=uvicorn, group_send or centrifuge
	@$(BIN)/python -m bench.fanout --clients $(N) --peer $(PEER) $(ARGS)

bench-e2e: setup ## latency from produce() to the message at a WebSocket client, 500 clients
	@$(BIN)/python -m bench.e2e $(ARGS)

bench-sources: setup ## what a source can carry: logs to events, and its other parts
	@$(BIN)/python -m bench.sources $(ARGS)

bench-rest: setup ## requests/s and p99 of one web node with 20,000 tokens on its board
	@$(BIN)/python -m bench.rest $(ARGS)

bench-pages: setup ## CPU of a page, a static file, a 404 and a probe of one web node
	@$(BIN)/python -m bench.pages $(ARGS)

bench-ingest-http: setup ## swaps/s over HTTP into Kafka, and how long a WebSocket waits meanwhile
	@$(BIN)/python -m bench.ingest_http $(ARGS)

audit: setup-dev ## bandit over the code, pip-audit over the locked packages (needs a network)
	@.ci/audit

bench-history: setup ## p99 of candles and trades over 50,000,000 archived swaps (ARGS=--rows N)
	@$(BIN)/python -m bench.history $(ARGS)

lock: setup-dev ## compile requirements*.in to the locked requirements*.txt
	$(LOCK) -o requirements.txt requirements.in
	$(LOCK) -o requirements-embedded.txt requirements-embedded.in
	$(LOCK) -o requirements-dev.txt requirements-dev.in

clean: ## remove var/ (all data of the embedded stack) and the caches of the tools
	@if [ -e var/stack.lock ] || [ -e var/demo/stack.lock ] || [ -e var/chain/stack.lock ]; then $(MAKE) --no-print-directory down; fi
	rm -rf var .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "creating .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv

# $(call install,TIME,FILES): print one line and keep pip's output in a file; on failure print its end
define install
	@echo "installing the locked requirements; the first time that takes $(1) (pip's log: $(PIP_LOG))"
	@mkdir -p $(dir $(PIP_LOG))
	@$(INSTALL) $(addprefix -r ,$(2)) >$(PIP_LOG) 2>&1 || { tail -n 15 $(PIP_LOG); \
		echo "pip failed; its whole output is in $(PIP_LOG)"; exit 1; }
endef

.venv/.installed: $(RUNTIME) | .venv/bin/python
	$(call install,about 1 minute,$(RUNTIME))
	@touch $@

.venv/.installed-dev: $(RUNTIME) requirements-dev.txt | .venv/bin/python
	$(call install,about 2 minutes,$(RUNTIME) requirements-dev.txt)
	@touch .venv/.installed $@
