# Each target sets itself up from nothing but python3 and make.
#   make lessons   run the lessons on simulated images (the main job); LESSONS="03 04" runs some
#   make test      lint and types, unit tests, and every lesson against its stored outputs
#   make jupyter   open the lessons
#   make figures   redraw every published picture that needs no measurement
#   make site      the lessons and the package's reference as static pages in build/site
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= build
# tensorflow-cpu is half the size, but exists for Linux x86-64 only and knows no graphics card.
TF ?= $(shell if [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1; then echo tf-cpu; else echo tf; fi)
# Empty installs the newest versions instead of the tested ones: make test CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: lessons test unit lint notebooks solutions refresh figures gate jupyter app site browser links clean

lessons: $(VENV)/.lessons
	$(BIN)/busutils lessons run $(LESSONS) --out $(OUT)

test: lint unit notebooks

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest

notebooks: $(VENV)/.dev
	$(BIN)/python tools/check_lessons.py
	$(BIN)/python -m pytest -o addopts= -q --nbval-lax --nbval-current-env notebooks/0*.ipynb

solutions: $(VENV)/.dev
	$(BIN)/python tools/exercises.py run --out $(OUT)/solutions

refresh: $(VENV)/.dev
	$(BIN)/busutils lessons refresh --out $(OUT)
	$(BIN)/python tools/write_readme.py

# Every picture of figures/ that no measurement is needed for: from its CSV, or by its lesson.
figures: refresh
	$(BIN)/python benchmarks/matrix_figure.py
	$(BIN)/python benchmarks/strata.py --draw
	$(BIN)/python benchmarks/kmeans_ablation.py --draw
	$(BIN)/python benchmarks/unet_peers.py
	$(BIN)/python benchmarks/unet_experiments.py
	$(BIN)/python benchmarks/phantom_figure.py
	$(BIN)/python tools/front_picture.py
	$(BIN)/python tools/write_readme.py

gate: lessons $(VENV)/.dev
	$(BIN)/python tools/gate.py $(OUT)

jupyter: $(VENV)/.lessons
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

app: $(VENV)/.app
	$(BIN)/busutils app

# The whole is built anew each time: it takes about a minute, and no page of a file that is gone stays behind. Node for
# the page of web/ comes from PyPI.
site: $(VENV)/.site
	rm -rf $(OUT)/site
	$(BIN)/python -m sphinx -c docs -b html -d $(OUT)/site-cache -E -W --keep-going -q . $(OUT)/site
	$(BIN)/python tools/build_web.py $(OUT)/site/web
	@echo "open $(OUT)/site/index.html"

# The web page and the site in a Chromium of the system.
browser: $(VENV)/.dev $(VENV)/.app site
	$(PIP_INSTALL) -e '.[browser]'
	$(BIN)/python -m pytest -m slow tests/test_page.py tests/test_site.py tests/test_web.py

# Links to other hosts; DOIs are looked up at doi.org, since publishers turn robots away.
links: $(VENV)/.site
	$(BIN)/python -m sphinx -c docs -b linkcheck -d $(OUT)/site-cache -q . $(OUT)/links

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "busutils needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is $$($(PYTHON) -V 2>&1): name another, as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks the module venv: install it (Debian, Ubuntu: sudo apt install python3-venv) and try again"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.lessons: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	$(PIP_INSTALL) -e '.[$(TF),lessons]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	$(PIP_INSTALL) -e '.[$(TF),dev]'
	@touch $@ $(VENV)/.lessons

$(VENV)/.app: $(VENV)/.lessons
	$(PIP_INSTALL) -e '.[app]'
	@touch $@

$(VENV)/.site: $(VENV)/.lessons
	$(PIP_INSTALL) -e '.[site]'
	@touch $@

clean:
	rm -rf $(VENV) $(OUT)
