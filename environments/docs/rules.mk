# `make docs`: the documentation site in site/, in an environment of its own, since no user of the package needs its builder.
DOCS_VENV := .venv-docs

$(DOCS_VENV)/.installed: environments/docs/requirements.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet -r environments/docs/requirements.txt
	@touch $@

.PHONY: docs
docs: $(DOCS_VENV)/.installed
	PYTHONPATH=environments/docs $(DOCS_VENV)/bin/zensical build --strict --clean
