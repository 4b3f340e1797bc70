# What a developer and the continuous integration run. Every target sets up what it needs.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.culpa-installed
BPF_SOURCES := $(wildcard src/culpa/collect/trace/bpf/*.[ch])
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check

# The first Python on the PATH that is new enough; empty where there is none.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

# Tests that only compute are spread over the CPUs; those that look at the host have it to themselves.
COMPUTING := tests/capture tests/diagnose tests/model tests/report tests/sim

.PHONY: setup demo test lint bench score soak docs nightly clean

setup: $(INSTALLED)  ## .venv with culpa in it, the kernel programs compiled

$(INSTALLED): pyproject.toml hatch_build.py $(BPF_SOURCES)
	@test -n "$(PYTHON)" || { echo "culpa needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "cannot make $(VENV): apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install -e '.[lab,dev]'
	@touch $@

demo: setup  ## the case of redis-slow from trouble to repair
	@$(BIN)/python -m culpa.labs.demo $(LAB)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(COMPUTING); computed=$$?; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(COMPUTING)) && exit $$computed

bench: setup
	$(BIN)/python bench/run.py

score: setup  ## all labs with and without tracing, and the sound ones a hundred times: docs/reference/score.json
	$(BIN)/python bench/score.py

soak: setup  ## a hundred runs of labs in which nothing is wrong, a hundred fixes and a hundred trials killed half-way, gains told from none; fails at one that is not right
	PYTHONPATH=tests/redis $(BIN)/python tests/fix/kills.py 100
	PYTHONPATH=tests/redis $(BIN)/python tests/fix/trials.py 300
	$(BIN)/culpa lab bench --sound --runs 100

docs: setup  ## docs/reference anew from the code
	$(BIN)/python docs/generate.py

nightly: export PYTEST_ADDOPTS := --hypothesis-profile=search --all-labs
nightly: test bench soak  ## the tests with all sound labs, and with examples of this night's own

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(INSTALLED)
	find src tests bench docs -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f src/culpa/collect/trace/bpf/*.bpf.o
