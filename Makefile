# Every target does its own set-up (tools/setup.sh): a virtual environment, Python packages, missing Debian packages.
.DEFAULT_GOAL := help
.PHONY: help run test test-vm check bench format clean setup
PY := .venv/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: ## the main job: a daemon, an image, a web server with a published port, its page fetched, all cleaned up
	@tools/setup.sh run
	@$(PY) -m tools.demo

test: ## all the tests: unit, kernel, conformance (ARGS='-k exec' goes to pytest)
	@tools/setup.sh test
	@$(PY) -m tools.suites $(ARGS)

test-vm: ## the tests marked vm on Debian's kernel in a virtual machine: cgroup v2, AppArmor, systemd (ARGS='tests/kernel' runs others)
	@tools/setup.sh vm
	@$(PY) -m tools.vm $(ARGS)

check: ## ruff, mypy --strict, import directions
	@tools/setup.sh test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache

bench: ## figures of dockyardd and, where installed, Debian's dockerd, taken side by side (ARGS='--quick')
	@tools/setup.sh test
	@$(PY) -m bench $(ARGS)

format: ## lay out the code
	@tools/setup.sh test
	$(PY) -m ruff check --fix-only -q
	$(PY) -m ruff format

setup: ## only the set-up
	@tools/setup.sh test

clean: ## the virtual environment, caches, built files
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
