import re

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
