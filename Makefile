# Everything below sets up what it needs first: scripts/bootstrap installs Debian packages and .venv once.
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONPATH := plugins:.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint types layers docs check env lock bench clean
help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup:  ## Install Debian packages and the virtual environment, once
	@scripts/bootstrap

demo: setup  ## Sandbox + Airflow + this morning's report; ONCE=1 ends after it; KUBECONFIG=file: your cluster
	@VCCI_KUBECONFIG="$(KUBECONFIG_FILE)" $(PY) -m sandbox.demo $(if $(ONCE),--once) $(if $(SCALE),--scale $(SCALE))

# Only a KUBECONFIG given on make's own command line is meant for the demo: one that happens to be in the
# environment may be production.
KUBECONFIG_FILE := $(if $(filter command line,$(origin KUBECONFIG)),$(abspath $(KUBECONFIG)))

test: setup  ## All tests, two whole Airflows beside the others; ARGS="tests/unit -k settings" for a part
ifdef ARGS
	@$(PY) -m pytest $(ARGS)
else
	@mkdir -p build; \
	$(PY) -m pytest tests/e2e/test_release*.py >build/releases.log 2>&1 & releases=$$!; \
	$(PY) -m pytest tests/e2e --ignore-glob='*/test_release*' >build/e2e.log 2>&1 & e2e=$$!; \
	trap "kill $$releases $$e2e" INT TERM; \
	$(PY) -m pytest tests/unit tests/dags tests/integration; failed=$$?; \
	wait $$releases || failed=1; wait $$e2e || failed=1; cat build/releases.log build/e2e.log; exit $$failed
endif

lint: setup  ## ruff, shellcheck, hadolint
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/shellcheck scripts/bootstrap .ci/run && .venv/bin/hadolint Dockerfile

types: setup  ## mypy --strict on the library
	@.venv/bin/mypy plugins/vcci_ops

layers: setup  ## Imports run one way
	@.venv/bin/lint-imports

docs: setup  ## Generate docs/dags.md from the DAGs
	@$(PY) scripts/dag_reference.py

check: lint types layers  ## All static checks, and that generated files are current
	@$(PY) scripts/dag_reference.py --check

env:  ## Write .env with fresh keys for docker compose, once; needs no set-up
	@python3 scripts/make_env.py

bench: setup  ## All benchmarks; a few minutes
	@for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

lock: setup  ## Compile requirements*.txt from pyproject.toml
	@UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url -q pyproject.toml -o requirements.txt
	@UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url -q pyproject.toml --group sandbox --group dev -c requirements.txt -o requirements-dev.txt

clean:  ## Stop the sandbox and remove its state
	@[ ! -d .sandbox ] || $(PY) -m sandbox down; rm -rf .sandbox
