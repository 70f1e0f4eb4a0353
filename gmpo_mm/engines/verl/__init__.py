"""Training on an installed `verl` (from the package registry): Ray, FSDP2 and vLLM are its own, the algorithm is ours."""
