"""transformers' own common tests as a package that can be imported: `common_tests("test_modeling_common")`."""

import functools
import importlib
import sys
import types
from collections.abc import Callable

import pytest

from .fetch_upstream import UpstreamUnavailableError, fetch

PACKAGE = "transformers_common_tests"

# What the common tests import but their release leaves out, with what they take from it. The two mixins bring tests
# of export and of text generation; the keywords are only read for configurations without sub-configurations.
LEFT_OUT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}


def common_tests(name: str) -> types.ModuleType:
    """Import one module of the common tests; where they cannot be had, skip the module that asks for it."""
    try:
        folder = fetch()
    except UpstreamUnavailableError as error:
        pytest.skip(f"transformers' common tests cannot be had: {error}", allow_module_level=True)
    if PACKAGE not in sys.modules:
        _module(PACKAGE).__path__ = [str(folder)]
        for left_out, contents in LEFT_OUT.items():
            _module(f"{PACKAGE}.{left_out.partition('.')[0]}").__path__ = []
            vars(_module(f"{PACKAGE}.{left_out}")).update(contents)
        # Maps the addresses of images to files; only the tests of chat templates open them.
        _module("fetch_hub_objects_for_ci").url_to_local_path = lambda address: address
    return importlib.import_module(f"{PACKAGE}.{name}")


def _module(name: str) -> types.ModuleType:
    sys.modules[name] = module = types.ModuleType(name)
    return module


def expect_failures(reasons: dict[str, str]):
    """Class decorator: the named tests of the mixins must fail, for the given reasons.

    One that passes, or that is not there any more, is an error: then its entry must go.
    """

    def decorate(test_class):
        for name, reason in reasons.items():
            test = getattr(test_class, name, None)
            if test is None:
                raise LookupError(f"{test_class.__name__} has no {name}; its entry is out of date: {reason}")
            setattr(test_class, name, _expect_failure(test, reason))
        return test_class

    return decorate


def _expect_failure(test: Callable, reason: str) -> Callable:
    @functools.wraps(test)  # a function of its own: the mixin's must not be marked
    def wrapper(self):
        test(self)

    return pytest.mark.xfail(reason=reason, strict=True)(wrapper)
