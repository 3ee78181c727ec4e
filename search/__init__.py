"""Scheduling: legality, cost models and the choosers of a schedule."""
