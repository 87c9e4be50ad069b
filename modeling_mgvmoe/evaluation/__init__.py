"""Evaluation: predictions over a data set, metrics, protocols, reports."""
