"""Inference: saved models, their predictions for many posts, the metrics of these. Training and evaluation use it."""
