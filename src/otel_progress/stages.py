"""Stages: named, weighted phases of a kind of work, and a registry of them.

With declared stages the ratio of an operation is meaningful from its first second. A stage that
usually takes 70 % of the time counts as 70 %, independent of its number of steps.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, EnumMeta
from functools import cache
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from otel_progress.errors import ConfigurationError
from otel_progress.text import normalize_id, truncate

if TYPE_CHECKING:
    from fractions import Fraction


MAX_STAGES: Final = 1000
"""Stages per kind of work. More are an error, which also stops an endless iterable."""


StageName: TypeAlias = "str | Enum"
"""Name of a stage: a text, or an Enum member whose name is used."""


StagesLike: TypeAlias = "Stages | str | Mapping[Any, float] | type[Enum] | Iterable[StageName]"
"""Argument of :func:`to_stages`. The keys of a mapping are stage names."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage with its weight and its start, both as fractions of the whole (0 to 1)."""

    name: str
    weight: float
    start: float


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Stages:
    """Ordered, immutable, hashable stages whose weights sum to 1.

    Weights have any positive scale. Pass them as keywords, or as a mapping if a name is not an
    identifier. A weight may be zero unless all are. ``stages["name"]`` is a :class:`Stage`. Each
    parameter for a name accepts an Enum member. An invalid value or unknown name raises
    ConfigurationError (a ValueError).

    >>> Stages(load=1, work=3)["work"]
    Stage(name='work', weight=0.75, start=0.25)
    """

    _stages: tuple[Stage, ...]
    _index: dict[str, int] = field(compare=False)

    def __init__(self, weights: Mapping[Any, float] | None = None, /, **named: float) -> None:
        from fractions import (
            Fraction,
        )  # Why here: it imports decimal, which programs without stages do not need.

        pairs = [
            (name, _parse_fraction(name, value, "weight")) for name, value in _collect_pairs(weights, named)
        ]
        total = sum((weight for _, weight in pairs), Fraction(0))
        if pairs and not total:
            names = _join_quoted(name for name, _ in pairs)
            msg = f"Invalid weights 0 of all stages ({names}): expected at least one positive weight."
            raise ConfigurationError(msg)
        self._build([name for name, _ in pairs], [weight / total for _, weight in pairs])

    @classmethod
    def from_starts(cls, starts: Mapping[Any, float] | None = None, /, **named: float) -> Stages:
        """Return stages from the percentage (0 to 100) at which each one starts.

        For example ``from_starts(DOWNLOADING=5, TRANSCRIBING=25)``. Starts ascend. A stage lasts
        until the next one starts, and the last one until 100. The first stage always starts at 0,
        so the stages cover the whole.
        """
        return cls._from_starts(
            [(name, _parse_fraction(name, value, "start")) for name, value in _collect_pairs(starts, named)]
        )

    @classmethod
    def from_enum(cls, enum: type[Enum], *, weights: bool = False) -> Stages:
        """Return stages with the names of the members of ``enum``, in their order.

        Numbers are percent starts as in :meth:`from_starts`, or weights if ``weights`` is true.
        Stages have equal weights if the values are texts, or only numbered 0, 1, 2, … or
        1, 2, 3, … as by ``auto()``.
        """
        members = _get_members(enum)
        if weights:
            return cls({member: member.value for member in members})
        values = [member.value for member in members]
        is_numbered = values in (list(range(len(values))), list(range(1, len(values) + 1)))
        if is_numbered or all(isinstance(value, str) for value in values):
            return cls(dict.fromkeys(members, 1))
        return cls._from_starts(
            [(member.name, _parse_fraction(member.name, member.value, "start")) for member in members]
        )

    @classmethod
    def _from_starts(cls, pairs: list[tuple[str, Fraction]]) -> Stages:
        names, starts = [name for name, _ in pairs], [start for _, start in pairs]
        for (previous, before), (name, start) in pairwise(pairs):
            if start <= before:
                msg = f"Invalid start {_format_percent(start)} of stage {_quote(name)}: expected more than "
                msg += f"the start of stage {_quote(previous)} at {_format_percent(before)}."
                raise ConfigurationError(f"{msg} Percent starts ascend: put the stages in order.")
        if starts and starts[-1] > 100:
            last_start = _format_percent(starts[-1])
            msg = f"Invalid start {last_start} of stage {_quote(names[-1])}: expected 0 to 100."
            raise ConfigurationError(
                f"{msg} If the values are weights, use Stages(...), or from_enum(..., weights=True)."
            )
        from fractions import Fraction

        edges = [Fraction(0), *starts[1:], Fraction(100)]
        stages = cls.__new__(cls)
        stages._build(names, [(end - start) / 100 for start, end in pairwise(edges)])
        return stages

    def _build(self, names: list[str], weights: list[Fraction]) -> None:
        """Set the stages. ``weights`` sum to 1.

        Fractions are exact: the weights 0.05 and 0.15 start the third stage at exactly 0.2.
        """
        if not names:
            msg = "Invalid stages: expected at least one stage. Pass one, such as Stages(work=1)."
            raise ConfigurationError(msg)
        from fractions import Fraction

        starts = accumulate(weights, initial=Fraction(0))
        stages = tuple(
            Stage(name, float(weight), float(start))
            for name, weight, start in zip(names, weights, starts, strict=False)
        )
        object.__setattr__(self, "_stages", stages)
        object.__setattr__(self, "_index", {name: index for index, name in enumerate(names)})

    @classmethod
    def register(cls, category: str, stages: StagesLike, *, replace: bool = False) -> Stages:
        """Register ``stages`` for a category of work and return them.

        Registering equal stages again does nothing. Other stages for a known category raise
        ConfigurationError unless ``replace`` is true. Thread-safe.
        """
        if not isinstance(category, str) or not category:
            msg = f"Invalid category {_quote(category)}: expected a text that is not empty, such as 'image'."
            raise ConfigurationError(msg)
        registered = to_stages(stages)
        if registered is None:
            msg = f"Invalid stages None of category {_quote(category)}: expected stages."
            raise ConfigurationError(f"{msg} Pass some, such as Stages(load=1, work=9).")
        # Why no lock: setdefault and assignment are atomic, and a fork could leave a lock held.
        if replace:
            _get_registry()[category] = registered
        elif _get_registry().setdefault(category, registered) != registered:
            msg = f"Invalid stages of category {_quote(category)}: it already has other stages."
            raise ConfigurationError(f"{msg} Pass replace=True to change them, or use another name.")
        return registered

    @classmethod
    def named(cls, category: str) -> Stages:
        """Return the stages of a category.

        Categories are ``default``, ``image``, ``video``, ``audio``, and those of :meth:`register`.
        """
        stages = _get_registry().get(category) if isinstance(category, str) else None
        if stages is None:
            msg = f"Invalid category {_quote(category)}: expected one of {_join_quoted(cls.categories())}."
            hint = _suggest(category, cls.categories())
            raise ConfigurationError(f"{msg}{hint} Add others with Stages.register(category, stages).")
        return stages

    @classmethod
    def categories(cls) -> tuple[str, ...]:
        """Return the names of all categories, sorted."""
        return tuple(sorted(_get_registry().copy()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(self._index)

    def index(self, name: StageName) -> int:
        """Return the index of a stage, from 0."""
        index = self._index.get(to_stage_name(name))
        if index is None:
            msg = f"Invalid stage {_quote(name)}: expected one of {_join_quoted(self.names)}."
            raise ConfigurationError(msg + _suggest(name, self.names))
        return index

    def overall(self, name: StageName, ratio: float) -> float:
        """Return the ratio of the whole for a ``ratio`` of stage ``name``, both 0 to 1.

        All stages before it count as done.
        """
        if not 0.0 <= ratio <= 1.0:
            msg = f"Invalid ratio {ratio!r} of stage {_quote(name)}: expected a number from 0 to 1."
            raise ConfigurationError(msg)
        index = self.index(name)
        end = self._stages[index + 1].start if index + 1 < len(self._stages) else 1.0
        stage = self._stages[index]
        # Why min and 1.0: rounding must neither exceed the start of the next stage nor miss it.
        return end if ratio == 1.0 else min(end, stage.start + stage.weight * ratio)

    def __getitem__(self, name: StageName) -> Stage:
        return self._stages[self.index(name)]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, (str, Enum)):
            return normalize_id(value.name if isinstance(value, Enum) else value) in self._index
        return value in self._stages

    def __repr__(self) -> str:
        weights = ", ".join(f"{truncate(stage.name, 40)!r}: {stage.weight:.6g}" for stage in self._stages)
        return f"Stages({{{weights}}})"


def to_stage_name(value: StageName) -> str:
    """Return the name of a stage, as the id of its level.

    The name of an Enum member is that of the member.
    """
    if isinstance(value, Enum):
        return normalize_id(value.name)
    if not isinstance(value, str) or not value:
        msg = f"Invalid stage {_quote(value)}: expected a text that is not empty, or an Enum member."
        raise ConfigurationError(msg)
    return normalize_id(value)


def to_stages(value: StagesLike | None) -> Stages | None:
    """Return stages from any value that represents them. None is returned unchanged.

    A text is a category, and a mapping has weights by name. An Enum class is converted by
    :meth:`Stages.from_enum`. Names in any other iterable become stages of equal weight.
    """
    if isinstance(value, str):
        return Stages.named(value)
    if value is None or isinstance(value, Stages):
        return value
    if isinstance(value, EnumMeta):
        return Stages.from_enum(cast("type[Enum]", value))
    if isinstance(value, Mapping):
        return Stages(value)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        names = [to_stage_name(name) for name in islice(value, MAX_STAGES + 1)]
        _check_unique(names)
        return Stages(dict.fromkeys(names, 1))
    expected = "Stages, a category, weights by name, an Enum class or names"
    msg = f"Invalid stages {_quote(value)}: expected {expected}."
    raise ConfigurationError(msg)


def _collect_pairs(mapping: object, named: Mapping[str, float]) -> list[tuple[str, object]]:
    """Return (name, value) of a mapping and of keywords."""
    if mapping is not None and not isinstance(mapping, Mapping):
        msg = f"Invalid stages {_quote(mapping)}: expected keywords, or a mapping from name to number."
        raise ConfigurationError(f"{msg} Use Stages.named(...) for a category.")
    items = [*(mapping.items() if mapping else ()), *named.items()]
    pairs = [(to_stage_name(name), value) for name, value in items]
    _check_unique([name for name, _ in pairs])
    return pairs


def _check_unique(names: list[str]) -> None:
    if len(names) > MAX_STAGES:
        msg = f"Invalid stages: expected at most {MAX_STAGES}."
        raise ConfigurationError(f"{msg} Use levels for many parts, and stages for the phases around them.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            msg = f"Invalid stage {_quote(name)}: expected a unique name, but it occurs twice."
            raise ConfigurationError(msg)
        seen.add(name)


def _get_members(enum: type[Enum]) -> list[Enum]:
    if not isinstance(enum, EnumMeta):
        msg = f"Invalid stages {_quote(enum)}: expected an Enum class with one member per stage."
        raise ConfigurationError(msg)
    for name, member in enum.__members__.items():
        if name != member.name:
            # Enum makes a repeated value an alias, so the stage would be missing.
            msg = (
                f"Invalid value of {enum.__name__}.{name}: expected another value than that of {member.name}."
            )
            raise ConfigurationError(
                f"{msg} Give each member its own value, or use Stages({{'name': weight, ...}})."
            )
    return list(enum)


def _parse_fraction(name: str, value: object, quantity: str) -> Fraction:
    """Return a weight or start as written: 0.05 is 5/100, not its binary value."""
    from fractions import Fraction

    number = Fraction(-1)
    if isinstance(value, numbers.Rational):
        number = Fraction(value)
    elif isinstance(value, numbers.Real) and math.isfinite(value):
        number = Fraction(repr(float(value)))
    if number >= 0 and not isinstance(value, bool):
        return number
    msg = (
        f"Invalid {quantity} {_quote(value)} of stage {_quote(name)}: expected a finite number of at least 0."
    )
    raise ConfigurationError(msg)


def _format_percent(start: Fraction) -> str:
    return f"{float(start):g} %" if start < 10**9 else "more than a billion %"


def _quote(value: object) -> str:
    try:
        return truncate(repr(value.name if isinstance(value, Enum) else value), 80)
    except Exception:
        return f"<{type(value).__name__}>"


def _join_quoted(names: Iterable[str]) -> str:
    return truncate(", ".join(_quote(name) for name in names), 400)


def _suggest(name: object, known: Iterable[str]) -> str:
    text = name.name if isinstance(name, Enum) else str(name)
    import difflib  # needed only for errors

    close = difflib.get_close_matches(text[:80], [entry[:80] for entry in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@cache
def _get_registry() -> dict[str, Stages]:
    """Return stages by category, created at the first call.

    The weights of the built-in categories are shares of time of typical runs on one GPU.
    """
    return {
        "default": Stages(queue=0.02, preparation=0.08, execution=0.85, finalisation=0.05),
        "image": Stages(queue=0.05, model_loading=0.15, generation=0.70, post_processing=0.10),
        "video": Stages(queue=0.03, model_loading=0.07, generation=0.70, interpolation=0.08, encoding=0.12),
        "audio": Stages(queue=0.05, model_loading=0.15, synthesis=0.65, mixing=0.10, encoding=0.05),
    }
