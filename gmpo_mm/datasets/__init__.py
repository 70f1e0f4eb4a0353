"""What `gmpo-mm data` does: data sets and a model as files, one module a command."""
