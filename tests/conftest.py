"""What every test run sets before torch is imported."""

import os

# Some tests compare bits. They hold for torch's AVX2 kernels; on a CPU with AVX-512 a matrix product of another height may
# round its last bit otherwise (seen for Qwen3's log-probabilities).
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
