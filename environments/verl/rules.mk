# `make test-verl`: the verl engine on the real verl, on the CPU, in an environment of its own (its ranges of transformers and
# OmegaConf are narrower than ours).
VERL_PYTHON ?= $(or $(PYTHON),python3)
VERL_VENV := .venv-verl

$(VERL_VENV)/.installed: environments/verl/requirements.txt environments/shared/declare_torchvision_ops.py
	@$(VERL_PYTHON) -c 'import sys; sys.exit("make test-verl needs Python 3.11: make test-verl VERL_PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "installing verl into $(VERL_VENV), about 2 GB: a minute or two"
	rm -rf $(VERL_VENV)
	$(VERL_PYTHON) -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(call install,$(VERL_VENV),--no-deps -r environments/verl/requirements.txt)
	$(call declare_torchvision_ops,$(VERL_VENV))
	$(VERL_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# By files: two runs at once use the cores that one leaves idle while its processes start, more would not fit into the memory.
.PHONY: test-verl
test-verl: $(VERL_VENV)/.installed
	OMP_NUM_THREADS=1 $(VERL_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/verl
