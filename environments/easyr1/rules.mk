# `make test-easyr1 EASYR1=/path/to/checkout`: the engine on the real EasyR1, on the CPU, in an environment of its own. EasyR1 is
# not on the package registry, so the checkout is the user's: git clone https://github.com/hiyouga/EasyR1
EASYR1_PYTHON ?= $(or $(PYTHON),python3)
EASYR1_VENV := .venv-easyr1

$(EASYR1_VENV)/.installed: environments/easyr1/requirements.txt environments/shared/declare_torchvision_ops.py
	@echo "installing what EasyR1 imports into $(EASYR1_VENV), about 3 GB: a few minutes"
	rm -rf $(EASYR1_VENV)
	$(EASYR1_PYTHON) -m venv $(EASYR1_VENV)
	$(EASYR1_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(call install,$(EASYR1_VENV),--no-deps -r environments/easyr1/requirements.txt)
	$(call declare_torchvision_ops,$(EASYR1_VENV))
	$(EASYR1_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.PHONY: test-easyr1
test-easyr1: $(EASYR1_VENV)/.installed
	@test -f "$(EASYR1)/verl/trainer/config.py" || { \
	  echo "EASYR1=$(EASYR1) is no checkout of EasyR1. git clone https://github.com/hiyouga/EasyR1, then make test-easyr1 EASYR1=EasyR1"; \
	  exit 1; }
	OMP_NUM_THREADS=1 PYTHONPATH=$(abspath $(EASYR1)) EASYR1=$(abspath $(EASYR1)) \
	  $(EASYR1_VENV)/bin/python -m pytest tests/easyr1 tests/config/test_load.py \
	  tests/distributed/test_fsdp_checkpoint.py tests/distributed/test_loss_scale.py
