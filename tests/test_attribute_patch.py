"""Replacement of attributes of other packages."""

from __future__ import annotations

import os
import pickle

import pytest

from otel_progress.attribute_patch import AttributePatch
from otel_progress.testing import recording


@pytest.mark.parametrize("name", ["_exit", "system", "getpid"])
def test_replaced_function_of_a_module_can_be_pickled(name: str) -> None:
    """Programs pass such functions to process pools."""
    original, patch = getattr(os, name), AttributePatch(os, name)

    def replace_function(replaced: object) -> object:
        assert replaced is original
        return lambda *arguments: original(*arguments)

    assert patch.apply(replace_function)
    try:
        replacement = getattr(os, name)
        assert replacement is not original
        assert pickle.loads(pickle.dumps(replacement)) is replacement
    finally:
        patch.remove()
    assert getattr(os, name) is original


def test_exit_function_can_be_pickled_while_progress_is_recorded() -> None:
    """``pool.submit(os._exit, 1)`` works as without a configuration."""
    with recording():
        assert pickle.loads(pickle.dumps(os._exit)) is os._exit
