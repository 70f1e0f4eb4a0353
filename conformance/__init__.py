"""Conformance vectors for policy losses: small inputs with the right loss and gradient, and a checker. See
README.md.

Standard library only, and nothing of gmpo_mm but in `adapters/gmpo_mm.py`: the checker runs in the
environment of the project that it checks.
"""
