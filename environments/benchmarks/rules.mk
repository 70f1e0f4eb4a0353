# Speed and memory side by side with TRL, in an environment of its own (benchmarks/README.md).

BENCHMARK_VENV := .venv-benchmarks
BENCHMARK_PYTHON := $(BENCHMARK_VENV)/bin/python
BENCHMARK_RESULTS ?= runs/benchmarks

$(BENCHMARK_VENV)/.installed: environments/benchmarks/requirements.txt constraints.txt pyproject.toml
	test -x $(BENCHMARK_PYTHON) || $(PYTHON) -m venv $(BENCHMARK_VENV)
	$(BENCHMARK_PYTHON) -m pip install --quiet "$$(grep '^torch==' environments/benchmarks/requirements.txt)"
	$(BENCHMARK_PYTHON) -m pip install --quiet -c constraints.txt -r environments/benchmarks/requirements.txt -e .
	@touch $@

.PHONY: benchmark
benchmark: $(BENCHMARK_VENV)/.installed
	mkdir -p $(BENCHMARK_RESULTS)
	$(BENCHMARK_PYTHON) -m benchmarks.startup_and_overhead --json $(BENCHMARK_RESULTS)/startup_and_overhead.json
	$(BENCHMARK_PYTHON) -m benchmarks.round_vs_trl --json $(BENCHMARK_RESULTS)/round_vs_trl.json
	$(BENCHMARK_PYTHON) -m benchmarks.long_prompts_vs_trl --json $(BENCHMARK_RESULTS)/long_prompts_vs_trl.json

# Ratios of the benchmarks beside benchmarks/baselines; in .venv, with math-verify. BENCHMARKS="NAME ...", CHECK_OPTIONS=--write.
.PHONY: benchmark-check
benchmark-check: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.check $(BENCHMARKS) $(CHECK_OPTIONS)
