# openoffload-gateway: `make demo` shows it, `make test` proves it. Each sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
FUZZ_SECONDS ?= 60
PREFIX ?= /usr/local
# Built by `install` beside the portable one, where it can run.
V3 := $(if $(filter x86_64,$(shell uname -m)),v3)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Tests that need root, namespaces and DPDK: one at a time, they share two cores.
E2E := $(CARGO) test --locked --workspace --test lab --test e2e

.PHONY: help setup build release v3 demo test unit e2e bench bench-full bench-docs instructions fuzz fmt clippy doc deny check valgrind install clean

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Install what is missing (apt), reserve hugepages
	@scripts/setup.sh

build: setup
	$(CARGO) build --locked --workspace

release: setup ## Optimised binaries in target/release
	$(CARGO) build --locked --release -p gateway -p netns-lab

v3: setup ## The build for processors with x86-64-v3, which the portable one becomes where it is installed beside it
	RUSTFLAGS="-C target-cpu=x86-64-v3" $(CARGO) build --locked --release -p gateway --target-dir $(TARGET)/x86-64-v3

demo: release ## The lab with real traffic, ending with a summary table (root)
	$(SUDO) $(TARGET)/release/netns-lab demo --bin $(TARGET)/release/gateway

test: unit e2e ## Everything: unit, property, golden and end-to-end tests (root for the last)

unit: setup
	$(CARGO) test --locked --workspace
	$(CARGO) test --locked -p conntrack --features shuttle --lib --test shuttle

e2e: release
	$(E2E) --no-run
	$(SUDO) env "PATH=$$PATH" GATEWAY_BIN=$(abspath $(TARGET)/release/gateway) $(E2E) -- --test-threads=1

bench: ## Benchmarks, to target/bench/report.json (under 15 minutes)
	@scripts/setup.sh bench $(BENCH_FLAGS)
	$(CARGO) build --locked --release -p benches -p gateway --bin benches --bin gateway
	$(SUDO) $(TARGET)/release/benches $(BENCH_FLAGS) --output target/bench/report.json
	$(SUDO) $(TARGET)/release/benches report target/bench/report.json --into target/bench

bench-full: ## The long ones too
	@$(MAKE) bench BENCH_FLAGS=--full

bench-docs: ## Publish the last report in docs/benchmarks
	$(TARGET)/release/benches report target/bench/report.json --into docs/benchmarks

instructions: setup ## Instructions per packet by stage, against benches/instructions.toml
	$(CARGO) build --locked --release -p benches
	$(SUDO) $(TARGET)/release/benches --only instructions --budget benches/instructions.toml --output target/bench/instructions.json

fuzz: setup ## Each fuzz target for FUZZ_SECONDS (60)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

valgrind: setup ## The flow table's unsafe code under memcheck
	@scripts/valgrind.sh

fmt:
	$(CARGO) fmt --all --check

clippy: setup
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

deny: ## Licences, sources and duplicates of dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --offline check licenses bans sources

check: fmt clippy doc ## What must be clean before a commit

install: release $(V3) ## Binaries, man pages, units and examples under PREFIX (/usr/local)
	install -Dm755 $(TARGET)/release/gateway $(DESTDIR)$(PREFIX)/bin/gateway
	$(if $(V3),install -Dm755 $(TARGET)/x86-64-v3/release/gateway $(DESTDIR)$(PREFIX)/bin/gateway-x86-64-v3)
	install -Dm644 share/man/gateway.1 $(DESTDIR)$(PREFIX)/share/man/man1/gateway.1
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/man/man5 share/man/*.5
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/openoffload-gateway share/examples/*.toml
	install -Dm644 -t $(DESTDIR)/etc/systemd/system share/systemd/*.service

clean:
	$(CARGO) clean
