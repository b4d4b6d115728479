# Two commands on a fresh machine: `make book` and `make test`.
# Everything is installed into .venv, at the versions in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
SET ?= book
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Large pages: where memory is handed out slowly (virtual machines), training and imports take a
# fraction of the time. Ignored where there is no glibc 2.35.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
EXTRAS := models,imagenet,images,scale,lab,book,test
NUMERIC := tests/attention tests/papers tests/statistics tests/training tests/crops/test_augmentation.py \
	tests/test_packing.py tests/crops/test_resampling.py tests/crops/test_sampling.py


.PHONY: help setup book test test-avx2 fuzz lab lint check wheels deploy bench clean

help:  ## what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## create .venv with everything in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and f"lesionlab needs Python 3.11 to 3.13, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps grad-cam
	touch $@

# Over an earlier build's output, -W ends with 0 though pages have warnings: it goes first.
book: $(READY)  ## execute what has changed and build _build/html
	$(BIN)/lesionlab notebooks run --set $(SET) --out _build/executed
	rm -rf _build/html _build/.doctrees
	LESIONLAB_BOOK_SET=$(SET) $(BIN)/jupyter-book build . --toc book/_toc.yml --path-output . -W -n --keep-going

test: $(READY)  ## all tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

# Every processor rounds in its own way, and no test may depend on it: this is another one's.
test-avx2: $(READY)  ## quick numeric tests, computed as without AVX-512 and AMX
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	OPENBLAS_CORETYPE=Haswell \
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup -m 'not slow' $(NUMERIC)

fuzz: $(READY)  ## hostile DICOM and .anno files, tables and archives, many of each kind
	LESIONLAB_FUZZ=20000 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/sources -k fuzz

lab: $(READY)  ## JupyterLab on the chapters
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

lint: $(READY)  ## ruff, mypy, and lines per package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/sizes.py

check: lint test test-avx2 book  ## everything that CI checks

wheels: $(READY)  ## the wheel in a clean environment of each Python that is there
	$(BIN)/python tests/wheels.py

deploy:  ## copy the built book to a static host: make deploy TO=user@host:/folder
	$(if $(TO),,$(error say where to: make deploy TO=user@host:/folder))
	test -f _build/html/index.html
	rsync --archive --delete --compress _build/html/ $(TO)/

bench: $(READY)  ## one table of ratios against named peers
	$(BIN)/python -m benchmarks

clean:  ## remove what was built, not .venv and not runs/
	rm -rf _build
