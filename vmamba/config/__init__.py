"""Composition and validation of a run's configuration; imports no torch."""
