"""Copies and pickles of handles.

A handle writes to a node of this process, so a second handle of the same node would end it twice.
A copy is therefore the handle itself. A pickle contains a reference, and loading it in the same
process returns the handle that was pickled.
"""

from __future__ import annotations

import os
import secrets
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

if TYPE_CHECKING:
    from typing import TypeAlias

    Reference: TypeAlias = "tuple[str, int, int]"
    """Random text of the program start, id of the process, and number of the handle."""

H = TypeVar("H", bound="SharedHandle")

_START: Final = secrets.token_hex(8)
_numbers: Final = count()
_references: Final[WeakKeyDictionary[SharedHandle, Reference]] = WeakKeyDictionary()
_handles: Final[WeakValueDictionary[Reference, Any]] = WeakValueDictionary()
"""Pickled handles that still exist. The garbage collector removes entries, so they are bounded."""


class SharedHandle:
    """Base of handles. A copy of a handle is the handle itself."""

    __slots__ = ("__weakref__",)

    def __copy__(self: H) -> H:
        return self

    def __deepcopy__(self: H, memo: object) -> H:
        return self


def make_reference(handle: SharedHandle) -> Reference:
    """Return the reference to a handle of this process, for a pickle."""
    reference = _references.get(handle)
    if reference is None:
        # Why the process id: a forked child continues the numbers of its parent.
        reference = (_START, os.getpid(), next(_numbers))
        _references[handle] = reference
        _handles[reference] = handle
    return reference


def find_handle(reference: Reference) -> Any:
    """Return the handle of a reference.

    None in another process, and after the handle was deleted.
    """
    return _handles.get(reference) if is_own_reference(reference) else None


def is_own_reference(reference: Reference) -> bool:
    """Return True if the handle was pickled by this process and interpreter."""
    return reference[:2] == (_START, os.getpid())
