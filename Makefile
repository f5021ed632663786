# Everything a newcomer types. Needs Python >= 3.11, make and git; the rest goes into .venv.
PYTHON  ?= python3
PROFILE ?= quick
CORES   ?= all
# auto: uv, else pip; or force one of them
INSTALLER ?= auto

VENV    := .venv
BIN     := $(VENV)/bin
# The content (never the time) of what the environment is made from, and the folder, since an environment can't be moved.
STAMP   := $(VENV)/.ready-$(shell { echo "$(CURDIR)"; cat pyproject.toml; } | git hash-object --stdin)

# Some images forbid Python to keep bytecode: then each of 18 jobs compiles torch anew, 17 s of imports instead of 7.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help reproduce test bench lint lab notebooks publish clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "options: PROFILE=quick CORES=all PYTHON=python3 INSTALLER=auto|uv|pip"

$(STAMP): # no prerequisite: its name changes with what it depends on
	@$(PYTHON) workflow/environment.py $(VENV) $(INSTALLER)
	@rm -f $(VENV)/.ready-*
	@touch $@

reproduce: $(STAMP) ## run the quick profile, print the claims beside the printed numbers, say where the report lies
	@$(BIN)/python workflow/run.py reproduce --profile $(PROFILE) --cores $(CORES)
	@$(BIN)/python workflow/run.py claims --profile $(PROFILE)

test: $(STAMP) ## unit tests, then every notebook in the smoke profile
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n auto --maxprocesses 4 --dist loadfile
	@$(BIN)/python workflow/run.py prepare --profile smoke --fresh
	@TQDM_DISABLE=1 $(BIN)/python -m pytest build/smoke_notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
		--nbval-kernel-startup-timeout=180 -p no:cacheprovider

bench: $(STAMP) ## costs as ratios in one run: training beside a bare loop, scoring, methods
	@$(BIN)/python -m pytest benchmarks -p no:cacheprovider --benchmark-columns=min,median,rounds

lint: $(STAMP) ## ruff over modules, tests and notebooks
	@$(BIN)/ruff check .

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

notebooks: $(STAMP) ## write parameterised copies of the notebooks for PROFILE into build/, without running them
	@$(BIN)/python workflow/run.py prepare --profile $(PROFILE)

publish: reproduce ## put results of the quick profile into notebooks/, figures/ and README.md
	@$(BIN)/python workflow/publish.py --profile $(PROFILE)

clean: ## remove the environment and everything that can be made again; figures/ and notebooks/ stay
	@rm -rf $(VENV) .snakemake runs build data/cache .pytest_cache .ruff_cache .hypothesis .benchmarks *.egg-info
