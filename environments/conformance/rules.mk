# `make conformance`: the loss vectors against gmpo_mm, TRL and verl, each in its own environment, and against EasyR1 where
# EASYR1=/path/to/checkout is given. A difference is a finding, not a failure of the command.
CONFORMANCE_RESULTS ?= runs/conformance

.PHONY: conformance
conformance: .venv/.installed .venv-benchmarks/.installed .venv-verl/.installed $(if $(EASYR1),.venv-easyr1/.installed)
	mkdir -p $(CONFORMANCE_RESULTS)
	.venv/bin/python -m conformance.check gmpo_mm --json $(CONFORMANCE_RESULTS)/gmpo_mm.json || test $$? = 1
	.venv-benchmarks/bin/python -m conformance.check trl --json $(CONFORMANCE_RESULTS)/trl.json || test $$? = 1
	.venv-verl/bin/python -m conformance.check verl --json $(CONFORMANCE_RESULTS)/verl.json || test $$? = 1
	$(if $(EASYR1),.venv-easyr1/bin/python -m conformance.check easyr1:$(EASYR1) \
	  --json $(CONFORMANCE_RESULTS)/easyr1.json || test $$? = 1)
