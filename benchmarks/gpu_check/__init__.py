"""What a GPU makes of this package: is it right, how much memory, how fast, does it learn. `python -m
benchmarks.gpu_check`."""
