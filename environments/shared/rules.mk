# $(call install,ENVIRONMENT,ARGUMENTS): with uv, which takes a third of pip's time; said, and done with pip, where uv can't, as
# behind a mirror that only pip is told of.
define install
$(1)/bin/python -m pip install --quiet uv
$(1)/bin/uv pip install --quiet --python $(1)/bin/python --compile-bytecode $(2) || { \
  echo "uv could not install this; pip does, which takes longer"; $(1)/bin/python -m pip install --quiet $(2); }
endef
