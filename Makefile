# `make lab` and `make test` do all the set-up on a fresh machine; run `make` alone for the list.
PYTHON ?= python3
BIN := .venv/bin
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=180
QUIET := --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=  # asks nobody for news
export OMP_NUM_THREADS ?= 1

.PHONY: help lab app test test-all test-oldest test-newest lock audit check-env align bench student key instructor grade slides site wheel notebooks lint coverage mutants pretrain clean

help:                 ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/'

.venv/lab: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements 2> /dev/null  # no pop-up for news
	@touch $@

.venv/test: .venv/lab requirements-test.txt
	$(BIN)/python -m pip install -q -r requirements-test.txt
	@touch $@

lab: .venv/lab        ## the environment, then the course in JupyterLab
	$(BIN)/jupyter lab --ip=127.0.0.1 $(QUIET) $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

app: .venv/lab        ## the six explorers as an app, without their code, at the address it prints
	$(BIN)/voila notebooks/explorer.ipynb --no-browser --Voila.ip=127.0.0.1 --Voila.auto_token=True

test: .venv/test      ## the environment, then every test that is not slow, and every notebook
	$(BIN)/python -m pytest -m "not slow" --doctest-modules $(NBVAL) --ignore=notebooks/key infalign_edu tests notebooks

test-all: .venv/test  ## the slow tests and the solved notebooks too
	$(BIN)/python -m pytest --doctest-modules $(NBVAL) infalign_edu tests notebooks

test-oldest: build/oldest/ready  ## the fast tests with the oldest releases that pyproject.toml allows, torch as pinned
test-newest: build/newest/ready  ## the fast tests with the newest releases that pyproject.toml allows, torch as pinned
test-oldest test-newest: test-%:
	build/$*/bin/python -m pytest -m "not slow" --doctest-modules infalign_edu tests

# An environment of its own. Old releases have no wheel for a new Python: make test-oldest PYTHON=python3.11
build/%/ready: pyproject.toml requirements.txt requirements-test.txt | .venv/test
	rm -rf build/$*
	$(PYTHON) -m venv build/$*
	$(BIN)/python tests/drift.py $* > build/$*/requirements.txt
	build/$*/bin/python -m pip install -q -r build/$*/requirements.txt
	build/$*/bin/python -m pip install -q --no-deps -e .
	@touch $@

lock: .venv/test      ## the locks with hashes, after a change of the pins
	test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install -q uv==0.13.9; }
	PATH="$(CURDIR)/build/lock/bin:$$PATH" $(BIN)/python tests/drift.py lock

# --strict: a package that the advisories' service does not know is a failure, not "no known vulnerabilities found".
audit:                ## asks PyPI for known weaknesses of every locked dependency; needs a network
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install -q pip-audit==2.10.1; }
	build/audit/bin/pip-audit --strict --disable-pip -r requirements-lock.txt -r requirements-test-lock.txt -r requirements-cuda-lock.txt

check-env: .venv/lab  ## what this machine lacks for the course, and what mends it
	$(BIN)/python -m infalign_edu check-env

align: .venv/lab      ## the whole pipeline on the embedded model: best-of-4, exp:10 against identity
	$(BIN)/python -m infalign_edu align --out runs/align-$$(date +%Y%m%d-%H%M%S)

bench: .venv/test     ## speed against peers, each pair in the same run: data/runs/bench.csv
	$(BIN)/python benchmarks/run.py

student: .venv/lab    ## copies to hand out: build/student
	$(BIN)/python -m infalign_edu.classroom.masters student --out build/student

key: .venv/lab        ## the solved notebooks: build/key
	$(BIN)/python -m infalign_edu.classroom.masters key --out build/key

instructor: .venv/lab ## the notebooks with visible and hidden tests, in nbgrader's format: build/instructor
	$(BIN)/python -m infalign_edu.classroom.masters instructor --out build/instructor

grade: .venv/test     ## SUBMISSIONS=dir -> build/grades: points as CSV, feedback as HTML
	@test -n "$(SUBMISSIONS)" || { echo "SUBMISSIONS must name the folder of submissions: make grade SUBMISSIONS=dir"; exit 2; }
	$(BIN)/python -m infalign_edu.classroom.grading "$(SUBMISSIONS)" --out build/grades

slides: .venv/test    ## slides made from the notebooks: build/slides
	$(BIN)/python notebooks/publish.py slides

site: .venv/test      ## the solved course as web pages: build/site
	$(BIN)/python notebooks/publish.py site

wheel: .venv/test     ## the package as one file, for hosted notebooks: dist/
	$(BIN)/python -m build --wheel --no-isolation

notebooks: .venv/test ## run every notebook and save its outputs; one with answers in it is refused
	$(BIN)/python notebooks/build.py

lint: .venv/test      ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: .venv/test  ## lines and branches of the package that the fast tests reach, at least 95 %: build/coverage
	$(BIN)/python -m pip install -q coverage==7.17.3
	PYTHONPATH=$(CURDIR) $(BIN)/python -m coverage run -m pytest -q -m "not slow" --doctest-modules infalign_edu tests
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage html -q -i && $(BIN)/python -m coverage report -i --fail-under=95 --precision=2

mutants: .venv/test   ## mutants of the method and the theory, hours: build/mutants; then python tests/mutants.py
	$(BIN)/python -m pip install -q mutmut==3.8.1
	rm -rf build/mutants && git clone -q . build/mutants && cd build/mutants && $(CURDIR)/$(BIN)/mutmut run

pretrain: .venv/lab   ## train the embedded reference model from scratch
	$(BIN)/python -m infalign_edu.lm.pretrain --out data/embedded/model

clean:                ## remove the environment and caches, keep runs/ and the grades in build/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name grades -exec rm -rf {} +
