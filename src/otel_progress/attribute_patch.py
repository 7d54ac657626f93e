"""Replaces an attribute of another package's class or module, and restores it."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final

_MISSING: Final = object()


class AttributePatch:
    """Replacement of ``owner.name``, which :meth:`remove` undoes.

    Other packages may replace the same attribute before or after. A replacement calls the value
    that it replaced, which it receives. A replacement that another package has replaced again
    cannot be removed. So it must do nothing once :attr:`is_active` is False.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name
        self._own_value: Any = _MISSING
        self._replacement: Any = _MISSING
        self.is_active = False

    def apply(self, make: Callable[[Any], Any]) -> bool:
        """Replace the attribute by ``make(value)``.

        Return False, and change nothing, if the owner has no such attribute.
        """
        value = _find_attribute(self._owner, self._name)
        if value is _MISSING:
            return False
        self._own_value = vars(self._owner).get(self._name, _MISSING)
        self._replacement = make(value)
        if isinstance(self._owner, ModuleType) and isinstance(self._replacement, FunctionType):
            # Why: pickle finds a function by its module and name. Those written in C often state
            # another module.
            self._replacement.__module__ = self._owner.__name__
            self._replacement.__qualname__ = self._name
        self.is_active = True
        setattr(self._owner, self._name, self._replacement)
        return True

    def remove(self) -> None:
        """Restore the attribute, unless another package has replaced it again."""
        self.is_active = False
        if self._replacement is _MISSING or vars(self._owner).get(self._name) is not self._replacement:
            return
        if self._own_value is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own_value)


def _find_attribute(owner: Any, name: str) -> Any:
    """Return the attribute as its class or module stores it.

    A property is not evaluated.
    """
    for namespace in getattr(owner, "__mro__", (owner,)):
        if name in vars(namespace):
            return vars(namespace)[name]
    return _MISSING
