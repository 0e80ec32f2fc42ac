# Every target makes what it needs. Two are all the set-up: `make up` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DRP := $(BIN)/drp
PYTEST := $(BIN)/python -m pytest
.DEFAULT_GOAL := help
# Processes start often, here and on the platform: what is compiled once is not compiled again.
unexport PYTHONDONTWRITEBYTECODE
.SUFFIXES:

$(VENV)/made: requirements/build.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Python 3.11, 3.12 or 3.13 is needed; found $$($(PYTHON) --version). Untouched: everything. Next: make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "making the virtual environment"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@touch $@

$(VENV)/run: $(VENV)/made requirements/run.txt pyproject.toml
	@echo "installing the platform's packages (about 1.4 GB the first time)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/run.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test: $(VENV)/run requirements/test.txt
	@echo "installing the test tools"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/test.txt
	@touch $@

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 22

.PHONY: setup
setup: $(VENV)/run ## Install everything the platform needs into .venv

.PHONY: up start
up: $(VENV)/run ## Bring the whole platform up on this machine
	@$(DRP) up
start: up ## The same as up

.PHONY: down
down: $(VENV)/run ## End every process; state stays
	@$(DRP) down

.PHONY: reset
reset: $(VENV)/run ## End everything and remove all state (asks first)
	@$(DRP) reset

.PHONY: infrastructure database seed
infrastructure: $(VENV)/run ## Materialise the infrastructure assets
	@$(DRP) materialize infrastructure
database: $(VENV)/run ## Start the databases and apply their schema
	@$(DRP) materialize databases
	@$(DRP) materialize schema
seed: $(VENV)/run ## Load the knowledge sets
	@$(DRP) materialize knowledge

.PHONY: health
health: $(VENV)/run ## Ask every service how it is
	@$(DRP) health

.PHONY: production-ready
production-ready: $(VENV)/run ## Show every gate before production; fails unless all pass
	@$(DRP) production-ready

.PHONY: validate
validate: $(VENV)/run ## Validate the catalog and look at the machine
	@$(DRP) catalog validate
	@$(DRP) doctor

.PHONY: dev
dev: $(VENV)/run ## Bring the platform up and reload services and definitions when their files change
	@$(DRP) dev

.PHONY: demo
demo: $(VENV)/run ## Talk with the platform in the terminal
	@$(DRP) demo

.PHONY: demo-delivery
demo-delivery: $(VENV)/run ## Watch a good release promoted, and a bad one caught and reverted by itself
	@$(DRP) demo-delivery

.PHONY: test
test: $(VENV)/test ## Run the project's own tests
	@$(PYTEST) tests/unit tests/contracts -m "not vault and not s3" -n 3 --dist loadfile
	@$(PYTEST) tests/e2e

# What runs is validated by suites of checks; what they find stands in Dagster's UI as well.
.PHONY: test-all test-smoke test-integration test-hipaa test-ai test-security test-performance test-recovery
test-all: $(VENV)/run ## Run every check of the running platform; the last line is its performance
	@$(DRP) check
test-smoke: $(VENV)/run ## Ask every documented address of every service
	@$(DRP) check --suite smoke
test-integration: $(VENV)/run ## Send a conversation and a task through all services they need
	@$(DRP) check --suite integration
test-hipaa: $(VENV)/run ## Check audit, encryption and access of databases and services
	@$(DRP) check --suite hipaa
test-ai: $(VENV)/run ## Measure retrieval, latency, and what is said in a crisis
	@$(DRP) check --suite ai
test-security: $(VENV)/run ## Try listeners, secrets, tokens and well-known logins
	@$(DRP) check --suite security
test-performance: $(VENV)/run ## Judge every promise of the catalog under a stated load
	@$(DRP) check --suite performance
test-recovery: $(VENV)/run ## Judge the newest backup of every database: verified, fresh, restorable
	@$(DRP) check --suite recovery

# With every check and what it measured, and for another environment: test-hipaa-verbose, test-hipaa-staging.
SUITES := smoke integration hipaa ai security performance recovery
VERBOSE := test-all-verbose $(SUITES:%=test-%-verbose)
STAGING := test-all-staging $(SUITES:%=test-%-staging)
.PHONY: $(VERBOSE) $(STAGING) security-scan-staging health-check-production
$(VERBOSE): $(VENV)/run
	@$(DRP) check $(patsubst %,--suite %,$(filter-out all,$(@:test-%-verbose=%))) --verbose
$(STAGING): $(VENV)/run
	@$(DRP) --env staging check $(patsubst %,--suite %,$(filter-out all,$(@:test-%-staging=%)))
security-scan-staging: test-security-staging ## The same as test-security-staging
health-check-production: $(VENV)/run ## Ask every service of production how it is
	@$(DRP) --env production health

.PHONY: test-install
test-install: $(VENV)/test ## Bring the platform up as root and as an ordinary user, with and without Go, Java and Maven
	@$(PYTEST) -m install tests/install

.PHONY: test-monitoring
test-monitoring: $(VENV)/test ## Prove the generated alert rules with Prometheus' own promtool
	@command -v promtool >/dev/null || { echo "promtool is not on the PATH. Untouched: everything. Next: install it (Debian: apt-get install --no-install-recommends prometheus) and run again." >&2; exit 2; }
	@$(PYTEST) -m monitoring tests/monitoring

.PHONY: test-vault
test-vault: $(VENV)/test ## Run the secret store's contract on a real Vault (builds it once, about ten minutes)
	@$(BIN)/python -m tests.vault_server && $(PYTEST) -m vault tests/contracts/test_secrets_vault.py

.PHONY: test-s3
test-s3: $(VENV)/test ## Run the object store's contract and a backup on a real S3 server (builds it once, about four minutes)
	@$(BIN)/python -m tests.s3_server && $(PYTEST) -m s3 tests/contracts/test_objects_s3.py

.PHONY: check
check: $(VENV)/test ## Lint, types, import contracts, catalog, documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/ty check
	@$(BIN)/lint-imports
	@$(DRP) catalog validate
	@$(BIN)/python scripts/check_requirements.py

.PHONY: format
format: $(VENV)/test ## Format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/test ## Measure, print, and write docs/benchmarks.md
	@$(BIN)/python scripts/bench.py

.PHONY: bench-delivery
bench-delivery: $(VENV)/test ## Measure how fast bad releases are taken back, into docs/benchmarks.md
	@$(BIN)/python scripts/bench_delivery.py

.PHONY: bench-data
bench-data: $(VENV)/test ## Measure backups, drill, migrations, masking and loading, into docs/benchmarks.md
	@$(BIN)/python scripts/bench_data.py

.PHONY: lock
lock: $(VENV)/made ## Resolve the dependencies again, with hashes and without addresses
	@for set in build test; do $(BIN)/uv pip compile requirements/$$set.in $$([ $$set = test ] && echo -c requirements/run.txt) --quiet --no-header --no-annotate --generate-hashes --no-emit-index-url --universal --python-version 3.11 -o requirements/$$set.txt; done
	@$(BIN)/uv pip compile pyproject.toml --quiet --no-header --no-annotate --generate-hashes --no-emit-index-url --universal --python-version 3.11 -o requirements/run.txt
