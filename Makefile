# The World models workshop: `make workshop` starts it, `make help` lists the rest.
# Kept to what GNU make 3.81 knows, the version that macOS brings.

VENV := .venv
PY := $(VENV)/bin/python
# Holds the folder that the environment was made for: a virtual environment cannot be moved.
STAMP := $(VENV)/.set-up
# There while an install runs: pip cannot tell a half-written package from a whole one.
UNFINISHED := $(VENV)/.unfinished
ENVPOOL := envpool>=1.2,<1.2.6

NOTEBOOKS := $(wildcard notebooks/*.ipynb)
FIRST_NOTEBOOK := $(firstword $(wildcard notebooks/00*.ipynb) $(wildcard notebooks/01*.ipynb))
LINT_STAGES := ruff mypy nbstripout
# JupyterLab refuses to run as root (in a container, say) without this.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# A setting of pip's for packages outside any environment, which fails inside one.
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup workshop test lint lock envpool clean pytest $(LINT_STAGES)

help:
	@echo 'make workshop   set up, then open the first notebook in JupyterLab'
	@echo 'make test       set up, then run every check and test'
	@echo 'make setup      only make .venv and install requirements.lock there'
	@echo 'make lint       the quick checks of make test: $(LINT_STAGES)'
	@echo 'make envpool    also install the second simulator (0.7 GB, Python 3.11 or 3.12)'
	@echo 'make lock       write requirements.lock anew (UPGRADE=1: with the newest versions)'
	@echo 'make clean      remove .venv and caches'
	@echo 'PYTHON=/path/to/python3.11 chooses the Python of a new .venv;'
	@echo 'JUPYTER_ARGS=--no-browser and PYTEST_ARGS="-k game" are passed on.'

# The second simulator again, too, where it was asked for before.
setup: $(STAMP) $(wildcard $(VENV)/.envpool)

# Set up again when the folder was moved, or the Python behind .venv is gone.
ifneq ($(shell $(PY) -c 'print(open("$(STAMP)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): requirements.lock pyproject.toml
	@if test -e $(STAMP) && test "$$(cat $(STAMP))" != "$(CURDIR)"; then touch $(UNFINISHED); fi; \
	if test -e $(UNFINISHED) || ! $(PY) -c '$(FITS)' 2>/dev/null; then \
		python=$$(sh tools/find_python.sh) || exit 1; \
		echo "Making $(VENV) with $$python"; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && "$$python" -m venv $(VENV); \
	fi
	@touch $(UNFINISHED)
	$(PY) -m pip install -r requirements.lock
	$(PY) -m pip install --no-deps --no-build-isolation --editable .
	$(PY) -m ipykernel install --sys-prefix --name python3 --display-name "World models workshop"
	@rm $(UNFINISHED)
	@printf '%s' "$(CURDIR)" > $(STAMP)

FITS := import sys, pip; sys.exit(sys.prefix == sys.base_prefix or not (3, 10) <= sys.version_info[:2] <= (3, 12))

workshop: setup
	$(PY) -m jupyterlab --ServerApp.root_dir=. --ip=localhost $(AS_ROOT) \
		--LabApp.default_url=/lab/tree/$(FIRST_NOTEBOOK) $(JUPYTER_ARGS)

# Every stage runs, whatever came before it, and the last line names those that failed.
RUN_STAGES = failed=; for stage in $(1); do \
		echo "== $$stage"; $(MAKE) --no-print-directory $$stage || failed="$$failed $$stage"; \
	done; \
	if test -n "$$failed"; then echo "FAILED:$$failed"; exit 1; else echo "All passed: $(1)"; fi

test: setup
	@$(call RUN_STAGES,$(LINT_STAGES) pytest)

lint: setup
	@$(call RUN_STAGES,$(LINT_STAGES))

ruff: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

mypy: setup
	@$(PY) -m mypy

# Notebooks are committed without outputs; with --verify nothing is changed, only said.
nbstripout: setup
	@$(if $(NOTEBOOKS),$(PY) -m nbstripout --verify --keep-id $(NOTEBOOKS),echo 'no notebooks yet')

pytest: setup
	@WORKSHOP_PROFILE=smoke $(PY) -m pytest -n 2 --nbmake --nbmake-timeout=300 $(PYTEST_ARGS)

lock:
	@python=$$(sh tools/find_python.sh) && \
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" "$$python" tools/make_lock.py $(if $(UPGRADE),--upgrade)

envpool: $(VENV)/.envpool
$(VENV)/.envpool: $(STAMP)
	@echo 'pip will say that gym3 wants an older glfw: that is for a window nothing here opens.'
	$(PY) -m pip install "$(ENVPOOL)"
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
