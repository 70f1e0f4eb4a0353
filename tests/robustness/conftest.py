"""Fixtures of the robustness tests."""

from tests.evaluation.conftest import serve

__all__ = ["serve"]
