"""Comparing runs: tables, plots and MLflow's own page for a sweep or any set of run folders. No torch in here."""
