"""`compute_metrics` for transformers' `Trainer`, where version 0.1 had it; it lives in `inference/predict.py`."""

from ..inference.predict import make_compute_metrics

__all__ = ["make_compute_metrics"]
