# Everything from a fresh machine: `make demo` runs a study and prints its report, `make test` runs all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test unit slow cluster gpu lint types check schema bench clean

demo: $(STAMP)
	$(BIN)/python -m ltsearch.sweep search_spaces/digits_lt.yaml

test: unit slow

# A process a core, each with one thread: a module's tests stay together, since they share what they set up.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# What trains without Ray, a process a core; then whole sweeps, two at a time: they wait as much as they compute.
slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile tests/trainables
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --ignore tests/trainables

# Three hosts with sshd as network namespaces of this machine (Linux, root, openssh-server, rsync, iproute2); skips without. Two
# modules at a time, each with hosts of its own: they wait much.
cluster: $(STAMP)
	$(BIN)/python -m pytest -m cluster -n 2 --dist loadfile tests/cluster

# Where a CUDA device is: trainables against their own numbers on the CPU, then the step's speed. Skips without; uses nothing of Ray.
gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/trainables/test_gpu.py
	$(BIN)/python -m benchmarks.run gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy --num-workers auto

check: lint types test

schema: $(STAMP)
	$(BIN)/python -m tools.schema

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

# Exact versions; on machines with GPUs pip takes the CUDA build of torch by itself.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is %d.%d: make PYTHON=python3.11 …" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
