# Deep Learning Theory: executable lecture notes. Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
ASKED := $(if $(filter command environment,$(firstword $(origin PYTHON))),--asked)
RUN := .venv/bin/python -m

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book notebooks colab test bench clean environment

help: ## list the targets, one line each
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

book: environment ## build the site from the committed notebooks, in seconds: _build/html/index.html
	@$(RUN) book_tools.book

notebooks: environment ## derive the notebooks from chapters/*.md and execute them (one of them: NAME=edge_of_stability)
	@$(RUN) book_tools.execute $(NAME)

colab: book ## write the copies for Colab into _build/colab (they carry the numbers of the built site)
	@echo "The Colab copies are in _build/colab"

test: environment ## re-execute and check everything: code, notebooks, claims, the built site
	@$(RUN) book_tools.check

bench: environment ## measure our instruments against their peers: tests/benchmarks/results.json
	@OMP_NUM_THREADS=1 $(RUN) tests.benchmarks.run

clean: ## remove what make built (keeps .venv; delete that directory to start afresh)
	@rm -rf _build .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

environment:
	@command -v $(firstword $(PYTHON)) >/dev/null 2>&1 || { echo "There is no '$(PYTHON)' on this machine: \
	install Python 3.11 or newer, or name the one you have: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) book_tools/environment.py $(ASKED)
