# With a GPU at hand (benchmarks/README.md): `make gpu-check` on a machine that has one, in the Python that holds its torch;
# `make gpu-wheels` before, on a machine with a network, where the packages that are missing there can't be installed.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
GPU_MINUTES ?= 8
GPU_WHEELS := .gpu-wheels
GPU_WHEELS_FOR := --only-binary=:all: --python-version 3.12 --implementation cp $(addprefix --platform ,manylinux_2_28_x86_64 \
  manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64)

.PHONY: gpu-check gpu-wheels
gpu-check:
	$(GPU_PYTHON) -m benchmarks.gpu_check --minutes $(GPU_MINUTES) $(GPU_OPTIONS)

# For Python 3.12 on x86-64. What is installed on the other machine goes before its wheel.
gpu-wheels: environments/gpu/requirements.txt | $(BIN)/python
	rm -rf $(GPU_WHEELS)
	$(BIN)/python -m pip download --quiet --no-deps $(GPU_WHEELS_FOR) -d $(GPU_WHEELS) -r $<
	@du -sh $(GPU_WHEELS)
