# make demo   the whole path on real digits (DATA=<MNIST folder> for MNIST)
# make test   every check: style, types, layering, tests
# make test-all  make test, then the long sweeps: tests marked "sweep", 11,000 damaged files among them
# make docs   the pages of docs/ as a site, with each command's options and the API: build/site/index.html (no network needed to build)
# make docs-links  whether the addresses of other sites in these pages are there
# make notebooks  the tutorials as Jupyter notebooks, in notebooks/
# make extras each pip extra, and the backend of examples/jax_backend, alone in an environment of its own (EXTRAS="torch keras");
#             torch's is installed from the source distribution, and runs the demo outside the checkout
#
# They set up what they need first, in VENV: make demo PyTorch and ONNX, make test every framework, make docs Sphinx (in VENV-docs). CPU=1 takes PyTorch's
# CPU build from PyTorch's own index, which spares Linux users gigabytes of CUDA; leave it out where torch is installed
# already or where your index serves the CPU build.

PYTHON ?= python3
VENV ?= .venv
DATA ?= digits
CPU ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
DOCS_READY := $(VENV)-docs/.ready
SPHINX = $(VENV)-docs/bin/python -m sphinx -c docs -W --keep-going -j 2 .

EXTRAS ?= torch keras mindspore onnx tflite jax

.PHONY: setup demo test test-all check docs docs-links notebooks extras clean

setup: $(READY)

$(READY): NEEDS := all,dev
$(DEMO_READY): NEEDS := torch,onnx,study
$(READY) $(DEMO_READY): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel --constraint constraints.txt
ifneq ($(CPU),)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --constraint constraints.txt torch \
		--index-url https://download.pytorch.org/whl/cpu
endif
	$(BIN)/pip install --quiet --editable ".[$(NEEDS)]" --constraint constraints.txt
	touch $@

demo: $(DEMO_READY)
	$(BIN)/qat demo --data_path $(DATA)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m sweep

# An environment of its own, without any framework: seconds to set up, and proof that the site needs none.
$(DOCS_READY): setup.py constraints.txt
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet --editable ".[docs]" --constraint constraints.txt
	touch $@

docs: $(DOCS_READY)
	$(SPHINX) -q -b html build/site
	@echo "build/site/index.html"

docs-links: $(DOCS_READY)
	$(SPHINX) -q -b linkcheck build/links

notebooks: $(READY)
	$(BIN)/python docs/tutorials/notebooks.py notebooks

extras: $(addprefix extra-,$(EXTRAS))

extra-%: ALONE = $(abspath $(VENV))-$*
extra-%:
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/bin/pip install --quiet ".[$*]" --constraint constraints.txt
	cd tests && OMP_NUM_THREADS=1 $(ALONE)/bin/python alone.py $*
	rm -rf $(ALONE)

# From what a package index would hand out. The demo needs the second installation, and runs where no checkout is.
extra-torch: ALONE = $(abspath $(VENV))-torch
extra-torch:
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/bin/pip install --quiet setuptools --constraint constraints.txt
	$(ALONE)/bin/python setup.py --quiet sdist --dist-dir $(ALONE)/dist
	$(ALONE)/bin/pip install --quiet "$$(ls $(ALONE)/dist/*.tar.gz)[torch]" --constraint constraints.txt
	cd tests && OMP_NUM_THREADS=1 $(ALONE)/bin/python alone.py torch
	$(ALONE)/bin/pip install --quiet "$$(ls $(ALONE)/dist/*.tar.gz)[onnx,study]" --constraint constraints.txt
	cd $(ALONE)/dist && OMP_NUM_THREADS=1 $(ALONE)/bin/qat demo
	rm -rf $(ALONE)

# A backend that lives in a package of its own: alone first, then the tests of backends, some of which compare with PyTorch.
extra-jax: ALONE = $(abspath $(VENV))-jax
extra-jax:
	$(PYTHON) -m venv $(ALONE)
	$(ALONE)/bin/pip install --quiet . ./examples/jax_backend --constraint constraints.txt
	cd tests && OMP_NUM_THREADS=1 $(ALONE)/bin/python alone.py jax
	$(ALONE)/bin/pip install --quiet ".[torch,study]" pytest pytest-xdist hypothesis --constraint constraints.txt
	cd tests && OMP_NUM_THREADS=1 PYTHONPATH=../examples/jax_backend/tests $(ALONE)/bin/python -m pytest -n 2 -k jax \
		test_ops_conformance.py test_backends_agree.py test_interfaces.py test_optimizers.py test_joined_values.py \
		test_not_finite.py ../examples/jax_backend/tests
	rm -rf $(ALONE)

clean:
	rm -rf $(VENV) $(VENV)-docs build dist out notebooks *.egg-info
