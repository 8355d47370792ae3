"""Finished runs, as `tests/runs` has them."""

from tests.runs.conftest import finished

__all__ = ["finished"]
