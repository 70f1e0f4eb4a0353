# `make test-lm-eval`: tasks of `gmpo-mm export-task` in the real lm-eval, on the CPU, in an environment of its own (it brings
# some forty packages that nothing here needs).
LM_EVAL_VENV := .venv-lm-eval

$(LM_EVAL_VENV)/.installed: environments/lm_eval/requirements.txt environments/shared/declare_torchvision_ops.py constraints.txt pyproject.toml
	@echo "installing lm-eval into $(LM_EVAL_VENV), about 1.5 GB: a minute or two"
	test -x $(LM_EVAL_VENV)/bin/python || $(PYTHON) -m venv $(LM_EVAL_VENV)
	$(LM_EVAL_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(call install,$(LM_EVAL_VENV),-c constraints.txt -r environments/lm_eval/requirements.txt -e .)
	$(LM_EVAL_VENV)/bin/python -m pip install --quiet --no-deps torchvision==0.28.0
	$(call declare_torchvision_ops,$(LM_EVAL_VENV))
	touch $@

.PHONY: test-lm-eval
test-lm-eval: $(LM_EVAL_VENV)/.installed
	OMP_NUM_THREADS=1 $(LM_EVAL_VENV)/bin/python -m pytest tests/lm_eval
