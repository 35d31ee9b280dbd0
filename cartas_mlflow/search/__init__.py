"""Hyperparameter search: what is varied, the study that any number of processes share, its pictures."""
