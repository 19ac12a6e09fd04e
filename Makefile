# make demo   a video of the embedded world, in outputs/
# make test   linters, types, tests
#
# Both work from a bare clone: whatever is missing is made first, in .venv.

VENV   := .venv
PYTHON := $(VENV)/bin/python
# The first Python on the path that the project supports and that can make a virtual environment.
SYSTEM_PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,\
	$(if $(shell $(name) -c 'import sys, ensurepip, venv; (3, 11) <= sys.version_info[:2] < (3, 15) and print("yes")' \
	2>/dev/null),$(name))))

.PHONY: demo test format clean
.NOTPARALLEL:

demo: $(VENV)/installed
	$(PYTHON) -m worldplay_env.rollout --world tiny --pose "w-8, right-8, w-8, left-7" --out outputs/demo

# One thread a worker: the tests' networks are small, and threads of several workers get into each other's way.
test: $(VENV)/installed-for-development
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --maxprocesses 8

format: $(VENV)/installed-for-development
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

clean:
	rm -rf $(VENV) build dist outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/made
	$(PYTHON) -m pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-for-development: pyproject.toml constraints.txt | $(VENV)/made
	$(PYTHON) -m pip install --constraint constraints.txt --editable '.[dev,training,ray,web,notebook]'
	touch $@ $(VENV)/installed

# pip first: the one that comes with an older Python does not know today's wheels and compiles them instead.
$(VENV)/made:
	@test -n "$(SYSTEM_PYTHON)" || { echo "no Python 3.11 to 3.14 (with venv) found; try make SYSTEM_PYTHON=/path/to/it" >&2; exit 1; }
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --upgrade pip
	touch $@
