# `make demo` and `make test` do all the set-up themselves: a .venv here, from a bare Python 3.10 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lowest engines lint types check bench clean

demo: $(STAMP)
	$(BIN)/alexnet-fast demo

# Side by side, a process for each core; every test keeps to folders of its own.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# The same tests beside the lowest versions that pyproject.toml declares; what those packages warn of is theirs.
lowest:
	@PIP_FIND_LINKS= tools/install.sh .venv-lowest "$(PYTHON)" lowest
	.venv-lowest/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal -o filterwarnings=default

# examples/engines, each on two processes, and Ray Data, which lacks pandas before. Some minutes: an engine is slow to
# import, and each is started twice.
engines: $(STAMP)
	@PIP_FIND_LINKS= $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[engines]'
	$(BIN)/python -m pytest tests/test_engines.py tests/dataset/test_ray_data.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

bench: $(STAMP)
	$(BIN)/python benchmarks/suite.py

# No find-links: a CPU-only torch picked up from one would not match torchvision.
$(STAMP): pyproject.toml constraints.txt tools/install.sh tools/build_native.py $(wildcard alexnet_fast/images/native/*.[ch])
	@echo "installing into $(VENV) (about 7 GB with PyTorch's CUDA libraries; once)"
	@PIP_FIND_LINKS= tools/install.sh $(VENV) "$(PYTHON)"
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
