# The whole study: `make help` lists what can be made and with which settings.

PROFILE ?= mini
DATA ?=
DEVICE ?=
PARAMS ?=
NOTEBOOKS ?=
PYTHON ?=
LAB ?=

PY := .venv/bin/python
export PROFILE DATA DEVICE PARAMS NOTEBOOKS PYTHON
$(foreach v,PROFILE DATA DEVICE PARAMS NOTEBOOKS PYTHON,$(eval override $v := $$(value $v)))  # as typed, with $
SETTINGS = --profile "$$PROFILE" --data "$$DATA" --device "$$DEVICE" --set "$$PARAMS"
STUDY = $(PY) -m ribkit.reproduce $(SETTINGS)

DAMAGE = $(addprefix tests/test_,$(addsuffix .py,soak killed damaged starved broken_inputs))
SOAK = $(if $(filter voc,$(PROFILE)),tests/test_soak_voc.py,$(DAMAGE))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: install reproduce test check lab figures report site bench soak clean help

install: .venv/.installed  ## install the packages into .venv, and no more

reproduce: .venv/.installed  ## run all notebooks in order, draw the figures, print the table of claims
	$(STUDY) --notebooks "$$NOTEBOOKS"

test: export RIBKIT_DEVICE = cpu
test: .venv/.installed  ## run the unit tests, then every notebook in short; compare cells that are the same everywhere
	$(PY) -m pytest tests -q -n auto --dist worksteal
	$(PY) tests/short_notebooks.py build/short
	$(PY) -m pytest --nbval build/short -q

check: .venv/.installed  ## check the input; say what will be computed, and for how long
	$(STUDY) --check

lab: .venv/.installed  ## open the notebooks in JupyterLab; LAB="--allow-root": with its options
	JUPYTER_PATH= JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab $(LAB) notebooks

figures: .venv/.installed  ## redraw every figure from the table beside it; write README's and docs' tables anew
	$(PY) -m ribkit.results.figures
	$(PY) -m ribkit.results.published

report: reproduce  ## write the study's last notebook to build/report.html
	$(PY) -m ribkit.results.site $(SETTINGS) --report

site: reproduce  ## write notebooks, README and docs as pages to build/site, with an index
	$(PY) -m ribkit.results.site $(SETTINGS)

bench: .venv/.installed  ## run every benchmark in benchmarks/; ratios to build/bench.json
	$(PY) benchmarks

soak: .venv/.installed  ## kill, damage and starve the study for half an hour; PROFILE=voc: run the paper's networks
	$(PY) -m pytest $(SOAK) -q -m "soak or not soak" --figures build/soak.json

clean:  ## remove all that was computed; figures/ and .venv stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	find notebooks ribkit tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

help:  ## list what can be made
	@echo "make TARGET [NAME=value ...], where TARGET is one of"
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo "and NAME one of"
	@echo "  PROFILE    the settings by name (mini)"
	@echo "  DATA       the folder with the images, for profiles that need one"
	@echo "  DEVICE     cuda or cpu (cuda where there is one)"
	@echo "  PARAMS     single settings, as in PARAMS=\"steps=5 classifier.epochs=3\""
	@echo "  NOTEBOOKS  those to reproduce, as in NOTEBOOKS=\"01 07\" (all)"
	@echo "  PYTHON     the Python that .venv is made with (the first 3.11 or 3.12 found)"

# The environment. Its stamps are written last, so a broken installation is made again. The first
# holds the folder that it was made in: a copied or moved clone gets its own.
ifneq ($(shell cat .venv/.locked 2>/dev/null),$(CURDIR))
.venv/.locked: elsewhere
endif
.PHONY: elsewhere

define find_python
fail() { echo "$$1" >&2; exit 1; }; \
set -- "$$PYTHON"; [ "$$1" ] || set -- python3.11 python3.12 python3; \
for python; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		>/dev/null 2>&1 && break; \
	python=; \
done; \
[ "$$python" ] || fail "ribkit needs Python 3.11 or 3.12$${PYTHON:+, which $$PYTHON is not}; install it, for example with apt-get install python3.11 python3.11-venv python3.11-dev."; \
name=$$("$$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
"$$python" -c 'import ensurepip, venv' 2>/dev/null \
	|| fail "ribkit needs the venv module of $$name; install it, for example with apt-get install $$name-venv."; \
g++ --version >/dev/null 2>&1 \
	|| fail "ribkit needs g++ to build pydensecrf2; install it, for example with apt-get install g++."; \
[ -f "$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] \
	|| fail "ribkit needs the C headers of $$name to build pydensecrf2; install them, for example with apt-get install $$name-dev."
endef

# Files with the hashes of the lock and no others; the lock is complete, so none is looked for. It is
# renewed by the command in its head (uv, from an environment of its own).
LOCKED = $(PY) -m pip install -qq --require-hashes --no-deps

.venv/.locked: requirements.lock
	@$(find_python); \
	echo "Installing the study's packages into .venv with $$name: some minutes, 6 GB."; \
	set -e; rm -rf .venv; "$$python" -m venv .venv; \
	awk '/^[^ ]/ {wanted = /^(setuptools|cython)==/} wanted' requirements.lock | $(LOCKED) -r /dev/stdin; \
	$(LOCKED) --no-build-isolation -r requirements.lock; \
	$(PY) -m pip check -q; \
	echo "$(CURDIR)" > $@

.venv/.installed: .venv/.locked pyproject.toml
	@$(PY) -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@
