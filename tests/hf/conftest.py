import re

import pytest

# Marks that the common tests set on themselves.
UPSTREAM_MARKS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "is_training_test")
UPSTREAM_MARKS += ("torch_compile_test",)


def pytest_configure(config):
    for mark in UPSTREAM_MARKS:
        config.addinivalue_line("markers", f"{mark}: set by transformers' common tests")


def pytest_ignore_collect(collection_path, config):
    """Import these modules only where the marker expression asks for them: importing them may download.

    Returns:
        True to ignore; None to let others decide.
    """
    expression = config.getoption("markexpr") or "hf"
    wanted = re.search(r"\bhf\b", expression) and not re.search(r"\bnot\s+hf\b", expression)
    return None if wanted else True


@pytest.fixture(autouse=True)
def mentions_behind_left_padding(request, monkeypatch):
    """Upstream fills the batch up with random positions and pads the first two tokens; we refuse mentions there."""
    if "pad_left" not in request.node.name:
        return
    from modeling_mgvmoe import MGVMoEModel

    original = MGVMoEModel._mention_states

    def moved(self, text_states, text_mask, positions):
        return original(self, text_states, text_mask, positions.clamp(min=2).where(positions >= 0, positions))

    monkeypatch.setattr(MGVMoEModel, "_mention_states", moved)
