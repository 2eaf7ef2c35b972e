"""Patients by name: the catalogue, cohorts, building them ahead of their use, and real CTs that are installed."""
