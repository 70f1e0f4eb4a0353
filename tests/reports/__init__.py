"""Tests of `gmpo_mm.reports`."""
