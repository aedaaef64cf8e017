# The front door. ARGS is handed on: `make run ARGS='--http_port 4401'`, `make test ARGS='-p store'`.
.DEFAULT_GOAL := help
.PHONY: help run check test bench soak planted deps

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16
run: ## build and start the server on 127.0.0.1:4400, state in ./data, examples applied on the first start
	@testing/prerequisites && exec cargo run --release -p chronos -- server --data_dir data --examples examples $(ARGS)
check: ## the inner loop, under two minutes: format, lints, layers, tests of the core
	@testing/prerequisites lints && cargo fmt --all --check && cargo clippy --workspace --all-targets --all-features -- -D warnings && testing/layers && cargo test -p scheduler $(ARGS)
test: ## every test; ends with a table of what was skipped
	@testing/test $(ARGS)
bench: ## the benchmarks
	@echo 'make bench: there are no benchmarks yet, see docs/status.md' >&2; exit 1
soak: ## hours under load and faults
	@echo 'make soak: there is no soak test yet, see docs/status.md' >&2; exit 1
planted: ## show that the simulator finds every planted defect
	@testing/prerequisites && testing/planted/run $(ARGS)
deps: ## install from Debian what tests need; lists it first, replaces nothing (needs root: sudo make deps)
	@testing/deps
