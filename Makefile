# make alone lists the targets.
MODULES := proto emitter signal
GO      ?= go
export GOWORK := $(CURDIR)/go.work
# Tests need their servers: a skip for want of one is a failure here.
export SIGNAL_TEST_REDIS ?= required
FUZZTIME ?= 10s
TIMES    ?= 100
RATE     ?= 5000
SECONDS  ?= 20

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: run
run: build ## Redis, two nodes and a page to try them, all in one process
	@bin/signal dev

.PHONY: build
build: ## bin/signal, a static binary
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/signal ./signal/cmd/signal

.PHONY: test
test: ## every test, with the race detector, on real servers
	@scripts/need redis-server
	@scripts/need gcc gcc libc6-dev # the race detector links with it
	@GO=$(GO) scripts/test $(MODULES:%=./%/...)
	@scripts/need node nodejs
	@node --test signal/js/
	@$(GO) test -run Allocs ./signal/hub # which the race detector would falsify

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@GO=$(GO) FUZZTIME=$(FUZZTIME) scripts/fuzz $(MODULES)

.PHONY: mutants
mutants: ## break one rule after the other: the tests must see each
	@scripts/need redis-server
	@SIGNAL_TEST_MUTANTS=1 $(GO) test -count=1 -timeout 30m -v -run '^TestMutants$$' ./signal

.PHONY: load
load: ## break a cluster under RATE (5000) durable events a second; and the application under 10,000 of clients' own
	@scripts/need redis-server
	@SIGNAL_LOAD=$(RATE) $(GO) test -count=1 -v -timeout 10m -run '^TestClusterUnderLoad$$' ./signal
	@SIGNAL_HOOK_LOAD=40 $(GO) test -count=1 -v -timeout 10m -run '^TestHooksUnderLoad$$' ./signal

.PHONY: model
model: ## the protocol of a durable room, in every order in which things can happen
	@scripts/need spin
	@scripts/need gcc gcc libc6-dev
	@scripts/model

.PHONY: faults
faults: ## each fault once, for as long as the list of faults has it: six minutes
	@scripts/need redis-server
	@SIGNAL_LONG=1 $(GO) test -race -count=1 -v -timeout 20m -run '^(TestFaults|TestNodeFaults|TestRedisStandsStill|TestReconnectsAskNobody)$$' ./signal

.PHONY: chaos
chaos: ## break everything TIMES (100) times, in any order, under load; ON=cluster, or single
	@scripts/need redis-server
	@SIGNAL_CHAOS=$(TIMES) SIGNAL_CHAOS_ON=$(ON) $(GO) test -count=1 -timeout 0 -v -run '^TestChaos$$' ./signal

.PHONY: attack
attack: ## what one client, or a stranger, can do to a node: SECONDS (20) each, and a table
	@scripts/need redis-server
	@SIGNAL_ATTACK=$(SECONDS) $(GO) test -count=1 -v -timeout 30m -run '^TestAttack$$' ./signal

.PHONY: pauses
pauses: ## masters of a cluster stand still, a million deliveries, TIMES (100) times: two minutes each
	@scripts/need redis-server
	@SIGNAL_PAUSES=$(TIMES) $(GO) test -count=1 -v -timeout 0 -run '^TestPauses$$' ./signal

.PHONY: bench
bench: ## what a delivery costs: the fan-out alone, then signal bench with its floor
	@scripts/need redis-server
	@$(GO) test -run '^$$' -bench . ./signal/hub
	@$(GO) run ./signal/cmd/signal bench fanout rooms p2p --window 64 --floor

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@GO=$(GO) scripts/lint $(MODULES)

.PHONY: interop
interop: ## the original's own servers and emitter beside nodes of ours
	@scripts/need redis-server
	@cd scripts/interop && npm ci --no-fund --no-audit --loglevel=error
	@SIGNAL_TEST_INTEROP=required $(GO) test -race -count=1 -run '^(TestInterop|TestFleet|TestRollingMove|TestDoctorMoving)$$' ./signal

.PHONY: smoke
smoke: build ## start what make run starts, send an event, stop
	@scripts/smoke

.PHONY: demo-ws
demo-ws: build ## only Redis and the nodes of make run
	@bin/signal dev --role ws

.PHONY: demo-api
demo-api: build ## only the Sale service and the page of make run
	@bin/signal dev --role api

.PHONY: up
up: ## Traefik, three nodes and Redis in containers
	@docker compose -f deploy/compose.yaml up --build --detach

.PHONY: down
down: ## end what make up started
	@docker compose -f deploy/compose.yaml down
