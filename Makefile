# make demo          trains a real model on two Horovod processes
# make test          set-up, then the suite; a second run skips what is done
# make test-full     the suite with its longest tests
# make test-oldest   the parallel suite on the oldest supported TensorFlow and Keras
# make matrix        the table of Keras features x strategies
# make lint          style and types
# make clean         removes the environments and all caches of this folder
#
# Nothing has to be activated; PYTHON=python3.12 make test chooses another Python.

PYTHON ?= python3
EXTRAS := mpi,data,plot,tensorboard,test
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: venv demo test test-full test-oldest matrix lint clean

venv: .venv/.horovod

.venv/.created:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.packages: .venv/.created setup.cfg pyproject.toml
	.venv/bin/python -m pip install --disable-pip-version-check --quiet \
	    --editable '.[cpu,$(EXTRAS),dev]'
	touch $@

# The command itself knows what is done, and that a new TensorFlow needs a new build.
RECIPE := $(wildcard tfdist/launch/horovod*.py)
.venv/.horovod: .venv/.packages $(RECIPE)
	.venv/bin/tfdist horovod install --mpi
	touch $@

# horovodrun puts the rank before every line, and the ranks end in any order; what
# the demonstration found is to be the last line, as the script wrote it.
demo: venv
	@TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/horovodrun -np 2 --gloo \
	    .venv/bin/python examples/digits/distributed.py --strategy horovod 2>&1 \
	| awk '{ sub(/^\[[0-9]+\]<std(out|err)>: ?/, "") } \
	       /^demo: / { result = $$0; next } \
	       { print; fflush() } \
	       END { if (result == "") exit 1; print result }'

test: venv
	.venv/bin/python -m pytest tests -m "not full"

test-full: venv
	.venv/bin/python -m pytest tests

.venv-oldest/.packages: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --disable-pip-version-check --quiet \
	    'tensorflow-cpu==2.18.*' 'keras==3.8.0' --editable '.[$(EXTRAS)]'
	touch $@

.venv-oldest/.horovod: .venv-oldest/.packages $(RECIPE)
	.venv-oldest/bin/tfdist horovod install --mpi
	touch $@

test-oldest: .venv-oldest/.horovod
	.venv-oldest/bin/python -m pytest tests/parallel -m "not full"

matrix: venv
	.venv/bin/python -m tests.parallel.matrix

lint: .venv/.packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-oldest .venv-torch build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
