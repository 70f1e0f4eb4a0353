"""The `local` engine: one process on one device, PyTorch and transformers. `launch` trains; `engine` says what it can do."""
