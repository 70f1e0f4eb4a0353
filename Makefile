# Two commands do everything on a fresh machine: `make quickstart` trains and shows a result, `make test` passes the tests.
# Python 3.10 or later and make are all they assume. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLD_VENV := .venv-transformers-4
# Two processes with one torch thread each: the tests' models are too small for a second thread to help. A process that has
# run out of tests takes half of what the other has left, so that the long files need no order.
PYTEST_OPTIONS := -n 2 --dist worksteal

.PHONY: help quickstart test test-slow test-wheel lint test-transformers-4 clean

help:
	@echo "make quickstart           install, then train a tiny vision-language model on the CPU and show what it learnt"
	@echo "make test                 install, then lint and test"
	@echo "make test-transformers-4  the model, sampling, training and evaluation tests under transformers 4.57"
	@echo "make docs                 the documentation site, in site/"
	@echo "make test-slow            tests that take minutes more than make test"
	@echo "make test-wheel           the wheel alone, in an environment of its own: quickstart, init, configs, an evaluation"
	@echo "make test-vllm            the vLLM rollout backend, for real, on the CPU"
	@echo "make test-verl            the verl engine on the real verl, on the CPU"
	@echo "make test-easyr1          the EasyR1 engine on a real EasyR1, on the CPU: EASYR1=/path/to/checkout"
	@echo "make test-lm-eval         exported tasks in the real lm-eval, on the CPU"
	@echo "make benchmark            speed and memory side by side with TRL"
	@echo "make benchmark-check      has a benchmark become worse than its baseline: five minutes"
	@echo "make gpu-check            on a GPU: right, memory, speed, sampling, learning, in eight minutes"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("gmpo-mm needs Python 3.10 or later: make PYTHON=python3.11 ...") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): a few minutes the first time"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt --progress-bar off --quiet -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -c constraints.txt --progress-bar off --quiet -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

# EasyR1 needs transformers 4; what differs between 4.57 and 5 is tested under both. How a run ends does not differ.
SAME_UNDER_BOTH := --ignore tests/engine/test_kill_and_resume.py --ignore tests/engine/test_bad_ends.py \
  --deselect tests/bundled/test_text_models.py::test_two_processes_make_the_same_bytes_and_training_changes_them
$(OLD_VENV)/.installed: pyproject.toml constraints.txt
	test -x $(OLD_VENV)/bin/python || $(PYTHON) -m venv $(OLD_VENV)
	grep -vE '^(transformers|tokenizers|huggingface-hub|peft|accelerate|datasets)==' constraints.txt > $(OLD_VENV)/constraints.txt
	$(OLD_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(call install,$(OLD_VENV),-c $(OLD_VENV)/constraints.txt 'transformers==4.57.6' -e '.[dev]')
	@touch $@

# What takes minutes more and is not part of CI.
test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS) -m slow --timeout 1800

# Built here, installed without -e beside the same dependencies, tried in an empty folder: two minutes.
test-wheel: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/wheel

test-transformers-4: $(OLD_VENV)/.installed
	OMP_NUM_THREADS=1 $(OLD_VENV)/bin/python -m pytest $(PYTEST_OPTIONS) $(SAME_UNDER_BOTH) tests/models tests/bundled tests/rollout tests/training tests/engine \
	  tests/data/test_prompts.py tests/data/test_prompt_dataset.py tests/data/test_real_geometry3k.py tests/evaluation/test_evaluate.py tests/evaluation/test_language.py

clean:
	rm -rf $(VENV) $(OLD_VENV) .venv-vllm .venv-lm-eval .venv-verl .venv-easyr1 .venv-benchmarks .venv-docs .gpu-wheels site runs evaluations data/synthetic_geometry

include $(wildcard environments/*/rules.mk)
