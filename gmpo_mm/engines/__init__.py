"""Engines: a validated configuration in, a run directory out."""
