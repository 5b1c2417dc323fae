# podbus: `make up` sets up, builds, starts a cluster and runs the example; `make test` sets up and runs every test.
# Cargo runs as you. Only installing packages and what makes namespaces runs as root, through sudo, and says so.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PODBUS  := target/release/podbus
IMAGE   := target/busybox-image.tar
PREFIX  ?= /usr/local
NODES   ?= 3
STATE   ?= /var/lib/podbus
RUST    := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Root keeps your cargo, rustup and PATH, so that it runs the same toolchain as you.
KEEP    := PATH,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,NATS_SERVER
AS_ROOT := $(if $(SUDO),$(SUDO) --preserve-env=$(KEEP) env)
# Static, so that the one file runs in any container. In RUSTFLAGS the flag would break procedural macros, unless cargo
# is told the target: benchmarks, whose binary cargo builds beside them, measure what users run.
STATIC  := -Ctarget-feature=+crt-static
BENCH    = RUSTFLAGS=$(STATIC) cargo bench --locked --profile dist --target $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: help
help: ## List what make can do
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# ---- setting up ----

# Packages by what they give: nats-server is the bus, busybox-static becomes the example's image, gcc links Rust
# programs. The tests also look at what the kernel holds (iproute2, nftables), and pull from a real registry with and
# without TLS (docker-registry, skopeo, openssl), and let others make containers (runc; jq for the example of one;
# containerd) and networks (containernetworking-plugins, whose portmap calls iptables).
PACKAGES := nats-server:nats-server busybox-static:busybox gcc:gcc libc6-dev:
TEST_PACKAGES := iproute2:ip nftables:nft docker-registry:docker-registry skopeo:skopeo openssl:openssl runc:runc jq:jq \
  containerd:containerd containernetworking-plugins: iptables:iptables

.PHONY: setup
setup: check-cargo ## Install the packages that building and running need
	@$(call install,$(PACKAGES))

.PHONY: setup-tests
setup-tests: check-cargo ## Install the packages that the tests need as well
	@$(call install,$(PACKAGES) $(TEST_PACKAGES))

define install
	missing=(); for entry in $(1); do \
	  package=$${entry%%:*}; program=$${entry##*:}; \
	  if [ -n "$$program" ]; then PATH="$$PATH:/usr/sbin:/sbin" command -v "$$program" >/dev/null || missing+=("$$package"); \
	  else dpkg -s "$$package" >/dev/null 2>&1 || missing+=("$$package"); fi; done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "==> installing with apt-get$(if $(SUDO), (as root, through sudo)): $${missing[*]}"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
endef

.PHONY: check-cargo
check-cargo:
	@command -v cargo >/dev/null && cargo --version >/dev/null 2>&1 || { \
	  echo "podbus needs Rust $(RUST). This one command gets it:"; \
	  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain $(RUST) && . \"\$$HOME/.cargo/env\""; \
	  exit 1; }

# ---- running ----

.PHONY: build
build: setup ## Build target/release/podbus, one static file
	@echo "==> building $(PODBUS)"
	@cargo rustc --locked --release -p podbus-cli --bin podbus -- $(STATIC)

$(IMAGE): deploy/build-busybox-image.sh
	@echo "==> building the image localhost/busybox:latest from Debian's static busybox"
	@mkdir -p $(@D) && sh deploy/build-busybox-image.sh $@

.PHONY: up
up: build $(IMAGE) ## Start a cluster of NODES nodes (3) and run the example
	@echo "==> starting the cluster$(if $(SUDO), (as root, through sudo))"
	@$(SUDO) $(PODBUS) up --detach --nodes $(NODES) --state-dir $(STATE)
	@# This cluster, should another run beside it.
	@export PODBUS_NATS_URL=$$($(SUDO) $(PODBUS) url --state-dir $(STATE)); \
	echo "==> loading the image on every node"; $(PODBUS) image load $(IMAGE); \
	echo "==> applying examples/two-containers.yaml"; $(PODBUS) apply -f examples/two-containers.yaml; \
	$(PODBUS) wait pod web --for=condition=Ready --timeout=60s; \
	$(PODBUS) get nodes; $(PODBUS) get pods -o wide
	@echo; echo "Try:"
	@echo "  $(if $(SUDO),sudo )$(PODBUS) exec web -c sidecar -- wget -qO- localhost:8080"
	@echo "  $(if $(SUDO),sudo )$(PODBUS) logs -f web -c sidecar"
	@echo "  $(if $(SUDO),sudo )$(PODBUS) events -w"
	@echo "  make down"

.PHONY: down
down: ## Stop the cluster and remove all of it
	@if [ -x $(PODBUS) ]; then echo "==> stopping the cluster$(if $(SUDO), (as root, through sudo))"; $(SUDO) $(PODBUS) down --state-dir $(STATE); \
	else echo "$(PODBUS) is not built: there is no cluster of it"; fi

# ---- checking ----

.PHONY: test
test: setup-tests ## Run every test; those that make namespaces as root
	@echo "==> building the tests"
	@cargo test --locked --workspace --no-run
	@echo "==> running the tests$(if $(SUDO), (as root, through sudo: they make namespaces))"
	@$(AS_ROOT) cargo test --locked --workspace --no-fail-fast
	$(if $(SUDO),@$(SUDO) chown -R "$$(id -u):$$(id -g)" target)

# A machine with cgroup v2 for the tests that it makes a difference to: limits, OOM, processes, devices, accounts, ends.
VM_PACKAGES := qemu-system-x86:qemu-system-x86_64 kmod:depmod e2fsprogs:mkfs.ext4 binutils:strip
VM_TESTS := runtime::life security::cgroups runtime::accounts changed_limits_survive a_dead_shim_takes exec_sync_answers \
	a_cgroup_of_v2_opens hundreds_of_layers runtime::handlers a_daemon_killed_amid_requests

.PHONY: test-vm
test-vm: setup-tests ## Run the tests of cgroup v2 in an emulated machine with Debian's kernel
	@$(call install,$(VM_PACKAGES))
	@echo "==> running the tests of cgroup v2 in a virtual machine"
	@CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(CURDIR)/tests/vm/run.sh" \
	  cargo test --locked -p podbus-sandbox --test main -- --test-threads 2 $(VM_TESTS)

.PHONY: lint
lint: check-cargo ## Run the linters: rustfmt, clippy, rustdoc, cargo-deny where it is installed
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	for crate in sandbox/shim sandbox/pause; do \
	  (cd $$crate && cargo fmt --check && cargo clippy --locked --target-dir ../../target/tiny -- -D warnings); done
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet
	if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
	else echo "cargo-deny is not installed: skipping the check of licences and bans (cargo install --locked cargo-deny)"; fi

.PHONY: simulate
simulate: check-cargo ## Run clusters from SEEDS seeds in one thread each, or replay SEED
	@$(if $(SEED),PODBUS_SEED=$(SEED),PODBUS_SEEDS=$(or $(SEEDS),20000)) cargo test --locked -p podbus-simulation no_seed

.PHONY: fuzz
fuzz: check-cargo ## Feed what reads strangers' bytes with inputs from SEEDS seeds each, or one TARGET, or replay its SEED
	@$(if $(SEED),PODBUS_SEED=$(SEED),PODBUS_SEEDS=$(or $(SEEDS),20000)) cargo test --locked -p podbus-fuzz --test fuzz $(TARGET) $(if $(SEED),-- --nocapture)

.PHONY: soak
soak: setup-tests ## Let CYCLES pods (10,000) come and go on one node, and look for what is left of them
	@cargo test --locked --release -p podbus-sandbox --test main --no-run
	@$(AS_ROOT) PODBUS_SOAK_CYCLES=$(or $(CYCLES),10000) \
	  cargo test --locked --release -p podbus-sandbox --test main pods_that_came_and_went -- --nocapture
	$(if $(SUDO),@$(SUDO) chown -R "$$(id -u):$$(id -g)" target)

.PHONY: soak-take-over
soak-take-over: setup ## Kill leader, followers and nats-server TAKE_OVERS (100) times under load, from SEED
	@PODBUS_TAKE_OVERS=$(or $(TAKE_OVERS),100) $(if $(SEED),PODBUS_SEED=$(SEED)) \
	  cargo test --locked --release -p podbus-cli --test e2e soak -- --nocapture

.PHONY: bench
bench: bench-e2e bench-sandbox bench-scheduler ## Run all benchmarks: tables here, figures in target/bench/

.PHONY: bench-e2e
bench-e2e: setup $(IMAGE) ## Measure the path from apply to Running
	@echo "==> building with fat LTO and measuring$(if $(SUDO), (as root, through sudo))"
	@$(BENCH) -p podbus-cli --bench e2e --no-run
	@$(AS_ROOT) $(BENCH) -p podbus-cli --bench e2e
	$(if $(SUDO),@$(SUDO) chown -R "$$(id -u):$$(id -g)" target)

# What is measured beside ours. Without them its column stays empty.
BENCH_PACKAGES := containerd:containerd runc:runc containernetworking-plugins:

.PHONY: bench-sandbox
bench-sandbox: setup ## Measure the container runtime beside containerd
	@$(call install,$(BENCH_PACKAGES))
	@echo "==> building with fat LTO and measuring$(if $(SUDO), (as root, through sudo))"
	@$(BENCH) -p podbus-cli --bench sandbox --no-run
	@$(AS_ROOT) $(BENCH) -p podbus-cli --bench sandbox
	$(if $(SUDO),@$(SUDO) chown -R "$$(id -u):$$(id -g)" target)

.PHONY: bench-scheduler
bench-scheduler: setup ## Measure the scheduler: its core, and end to end on simulated nodes
	@echo "==> building with fat LTO and measuring"
	@$(BENCH) -p podbus-scheduler-core --bench core
	@$(BENCH) -p podbus-scheduler-leader --bench leader
	@$(BENCH) -p podbus-cli --bench scheduler

.PHONY: bench-durability
bench-durability: check-cargo ## Measure what replicas and sync_interval cost (NATS_SERVERS=/a/nats-server,/b/nats-server)
	@cargo bench --locked --profile release -p podbus-scheduler --bench durability

# ---- a lab of containers ----

.PHONY: lab
lab: build $(IMAGE) ## Start the same cluster under docker compose and run the example on it
	@$(SUDO) deploy/lab.sh up $(PODBUS) $(IMAGE) $(NODES)

.PHONY: lab-down
lab-down: ## End the lab
	@$(SUDO) deploy/lab.sh down

# ---- installing ----

.PHONY: install
install: build ## Install podbus and its systemd units under PREFIX (/usr/local)
	@echo "==> installing $(PREFIX)/bin/podbus and its systemd units$(if $(SUDO), (as root, through sudo))"
	@$(SUDO) install -D -m 0755 $(PODBUS) $(DESTDIR)$(PREFIX)/bin/podbus
	@for unit in deploy/systemd/*.service; do $(SUDO) install -D -m 0644 $$unit $(DESTDIR)$(PREFIX)/lib/systemd/system/$$(basename $$unit); done

.PHONY: uninstall
uninstall: ## Remove what install installed
	@$(SUDO) rm -f $(DESTDIR)$(PREFIX)/bin/podbus
	@for unit in deploy/systemd/*.service; do $(SUDO) rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/$$(basename $$unit); done
