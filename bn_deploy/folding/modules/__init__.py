"""Folds torch networks."""
