"""The `easyr1` engine: an installed EasyR1 (Ray, FSDP, vLLM), extended by subclasses; nothing of it is copied or edited.

`config`, `actor`, `worker`, `trainer` and `launch` import EasyR1's `verl`; `preflight` and `data_check` do not.
"""
