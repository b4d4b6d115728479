"""Moved to `lesionlab._names`; here until `lesionlab.training.plans` takes it from there."""

from lesionlab._names import close, known, listed

__all__ = ["close", "known", "listed"]
