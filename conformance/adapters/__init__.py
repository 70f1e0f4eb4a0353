"""One module for each project: `loss(config, batch, cut)`, and what its result is called by. See
conformance/README.md."""
