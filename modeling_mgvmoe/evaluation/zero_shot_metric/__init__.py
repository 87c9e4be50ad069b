"""The metric for the library `evaluate`; its folder is what `evaluate.load` takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evaluate


def load_metric(**kwargs: Any) -> evaluate.Metric:
    """The metric of this folder, without network.

    Args:
        kwargs: of `evaluate.load`: `num_process`, `process_id`, `experiment_id`, `keep_in_memory`, `cache_dir`.
    """
    import evaluate

    return evaluate.load(os.path.dirname(os.path.abspath(__file__)), **kwargs)
