"""Stages: the named, weighted parts a kind of work always goes through, and a registry of them by category.

Announced up front, they make the ratio of an operation meaningful from its first second: a stage that usually takes 70 %
of the time counts 70 %, however many steps it has itself.
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
"""Most stages one kind of work can have; it also stops an endless iterable."""


StageName: TypeAlias = "str | Enum"
"""What names a stage: text, or an Enum member, which stands for its own name."""


StagesLike: TypeAlias = "Stages | str | Mapping[Any, float] | type[Enum] | Iterable[StageName]"
"""Whatever :func:`as_stages` understands; the keys of a mapping are stage names."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its name, its share of the whole and where it begins, both as fractions of the whole (0 to 1)."""

    name: str
    weight: float
    start: float


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Stages:
    """Ordered, immutable, hashable stages whose weights sum to 1.

    Weights are given on any positive scale, as keywords or, for names that are no identifiers, as a mapping; a weight may be
    zero unless all are. ``stages["name"]`` is a :class:`Stage`, and Enum members are taken wherever a name is. Every bad value
    and every unknown name is a ConfigurationError (a ValueError).

    >>> Stages(load=1, work=3)["work"]
    Stage(name='work', weight=0.75, start=0.25)
    """

    _stages: tuple[Stage, ...]
    _index: dict[str, int] = field(compare=False)

    def __init__(self, weights: Mapping[Any, float] | None = None, /, **named: float) -> None:
        from fractions import Fraction  # and with it decimal: programs without stages need not wait for them

        pairs = [(name, _number(name, value, "weight")) for name, value in _pairs(weights, named)]
        total = sum((weight for _, weight in pairs), Fraction(0))
        if pairs and not total:
            msg = f"All stages have weight 0 ({_listed(name for name, _ in pairs)}): give at least one of them a positive weight."
            raise ConfigurationError(msg)
        self._build([name for name, _ in pairs], [weight / total for _, weight in pairs])

    @classmethod
    def from_starts(cls, starts: Mapping[Any, float] | None = None, /, **named: float) -> Stages:
        """Make stages from the percentage (0 to 100) at which each begins: ``from_starts(DOWNLOADING=5, TRANSCRIBING=25)``.

        Starts ascend. A stage lasts until the next one starts, the last one until 100. The first stage begins at 0 even when
        its start is later, so that nothing of the whole belongs to no stage.
        """
        return cls._from_starts(
            [(name, _number(name, value, "start")) for name, value in _pairs(starts, named)]
        )

    @classmethod
    def from_enum(cls, enum: type[Enum], *, weights: bool = False) -> Stages:
        """Make stages named like the members of ``enum``, in their order.

        Numbers are percent starts as in :meth:`from_starts`, or weights when ``weights`` is true. Values that weigh nothing
        (texts, or mere numbering 0, 1, 2, … or 1, 2, 3, … as ``auto()`` gives) make stages of equal weight.
        """
        members = _members(enum)
        if weights:
            return cls({member: member.value for member in members})
        values = [member.value for member in members]
        numbered = values in (list(range(len(values))), list(range(1, len(values) + 1)))
        if numbered or all(isinstance(value, str) for value in values):
            return cls(dict.fromkeys(members, 1))
        return cls._from_starts(
            [(member.name, _number(member.name, member.value, "start")) for member in members]
        )

    @classmethod
    def _from_starts(cls, pairs: list[tuple[str, Fraction]]) -> Stages:
        names, starts = [name for name, _ in pairs], [start for _, start in pairs]
        for (previous, before), (name, start) in pairwise(pairs):
            if start <= before:
                msg = f"Stage {_quoted(name)} starts at {_percent(start)}, not after {_quoted(previous)} at {_percent(before)}."
                raise ConfigurationError(f"{msg} Percent starts have to ascend: put the stages in order.")
        if starts and starts[-1] > 100:
            msg = f"Stage {_quoted(names[-1])} starts at {_percent(starts[-1])}: percent starts are from 0 to 100."
            raise ConfigurationError(
                f"{msg} If the values are weights, use Stages(...), or from_enum(..., weights=True)."
            )
        from fractions import Fraction

        edges = [Fraction(0), *starts[1:], Fraction(100)]
        stages = cls.__new__(cls)
        stages._build(names, [(end - start) / 100 for start, end in pairwise(edges)])
        return stages

    def _build(self, names: list[str], weights: list[Fraction]) -> None:
        """Fill in. Exact fractions all the way, so that 0.05 + 0.15 starts the third stage at 0.2 and the last ends at 1."""
        if not names:
            msg = "There are no stages: name at least one, such as Stages(work=1)."
            raise ConfigurationError(msg)
        from fractions import Fraction

        starts = accumulate(weights, initial=Fraction(0))
        stages = tuple(
            Stage(name, float(w), float(start))
            for name, w, start in zip(names, weights, starts, strict=False)
        )
        object.__setattr__(self, "_stages", stages)
        object.__setattr__(self, "_index", {name: place for place, name in enumerate(names)})

    @classmethod
    def register(cls, category: str, stages: StagesLike, *, replace: bool = False) -> Stages:
        """Keep ``stages`` under the name of a category of work and return them.

        Registering the same again does nothing; other stages under a known name are refused unless ``replace`` is true.
        """
        if not isinstance(category, str) or not category:
            msg = f"A category of stages is named {_quoted(category)}: expected a text that is not empty, such as 'image'."
            raise ConfigurationError(msg)
        made = as_stages(stages)
        if made is None:
            msg = f"Category {_quoted(category)} was registered without stages: give some, such as Stages(load=1, work=9)."
            raise ConfigurationError(msg)
        # setdefault and assignment are single atomic steps of a dict, so threads need no lock that a fork could leave held.
        if replace:
            _registry()[category] = made
        elif _registry().setdefault(category, made) != made:
            msg = f"Category {_quoted(category)} already has other stages. Pass replace=True to change them, or use another name."
            raise ConfigurationError(msg)
        return made

    @classmethod
    def named(cls, category: str) -> Stages:
        """Return the stages of a category: ``default``, ``image``, ``video``, ``audio``, or one that was registered."""
        found = _registry().get(category) if isinstance(category, str) else None
        if found is None:
            hint = f"{_guess(category, cls.categories())} Known are: {_listed(cls.categories())}."
            msg = f"There are no stages for the category {_quoted(category)}.{hint}"
            raise ConfigurationError(f"{msg} Others are added with Stages.register(category, stages).")
        return found

    @classmethod
    def categories(cls) -> tuple[str, ...]:
        """Return the names of all categories, sorted."""
        return tuple(sorted(_registry().copy()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(self._index)

    def index(self, name: StageName) -> int:
        """Return the place of a stage, from 0."""
        found = self._index.get(stage_name(name))
        if found is None:
            msg = f"There is no stage {_quoted(name)}.{_guess(name, self.names)} The stages are: {_listed(self.names)}."
            raise ConfigurationError(msg)
        return found

    def overall(self, name: StageName, ratio: float) -> float:
        """Return the ratio of the whole (0 to 1) when stage ``name`` is done to ``ratio`` (0 to 1) and all before it are done."""
        if not 0.0 <= ratio <= 1.0:
            msg = f"Stage {_quoted(name)} cannot be at ratio {ratio!r}: expected a number from 0 to 1."
            raise ConfigurationError(msg)
        place = self.index(name)
        end = self._stages[place + 1].start if place + 1 < len(self._stages) else 1.0
        stage = self._stages[place]
        # Rounding must neither pass the next stage's start nor stop short of it.
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


def stage_name(value: StageName) -> str:
    """Return the name of a stage: of an Enum member its name, of a text the id its level has."""
    if isinstance(value, Enum):
        return normalize_id(value.name)
    if not isinstance(value, str) or not value:
        msg = f"A stage is named {_quoted(value)}: expected a text that is not empty, or an Enum member."
        raise ConfigurationError(msg)
    return normalize_id(value)


def as_stages(value: StagesLike | None) -> Stages | None:
    """Return stages from what callers write for them; None stays None.

    A text is a category, a mapping gives weights, an Enum class goes through :meth:`Stages.from_enum`, and any other iterable of
    names makes stages of equal weight.
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
        names = [stage_name(name) for name in islice(value, MAX_STAGES + 1)]
        _check_unique(names)
        return Stages(dict.fromkeys(names, 1))
    msg = f"Stages cannot be made from {_quoted(value)}: expected Stages, a category, weights by name, an Enum class or names."
    raise ConfigurationError(msg)


def _pairs(mapping: object, named: Mapping[str, float]) -> list[tuple[str, object]]:
    """Return (name, value) of a mapping and keywords together."""
    if mapping is not None and not isinstance(mapping, Mapping):
        msg = (
            f"Stages were given as {_quoted(mapping)}: expected keywords or one mapping from name to number."
        )
        raise ConfigurationError(f"{msg} A category is looked up with Stages.named(...).")
    items = [*(mapping.items() if mapping else ()), *named.items()]
    pairs = [(stage_name(name), value) for name, value in items]
    _check_unique([name for name, _ in pairs])
    return pairs


def _check_unique(names: list[str]) -> None:
    if len(names) > MAX_STAGES:
        msg = f"There are more than {MAX_STAGES} stages: use levels for parts that are many, and stages for the phases around them."
        raise ConfigurationError(msg)
    seen: set[str] = set()
    for name in names:
        if name in seen:
            msg = f"Stage {_quoted(name)} is there twice: every stage needs a name of its own."
            raise ConfigurationError(msg)
        seen.add(name)


def _members(enum: type[Enum]) -> list[Enum]:
    if not isinstance(enum, EnumMeta):
        msg = f"Stages cannot be made from {_quoted(enum)}: expected an Enum class with one member a stage."
        raise ConfigurationError(msg)
    for name, member in enum.__members__.items():
        if (
            name != member.name
        ):  # Enum makes a repeated value an alias, so the stage would vanish without a word
            msg = f"In {enum.__name__}, {name} has the value of {member.name} and so is no member of its own."
            raise ConfigurationError(
                f"{msg} Give each member its own value, or use Stages({{'name': weight, ...}})."
            )
    return list(enum)


def _number(name: str, value: object, what: str) -> Fraction:
    """Return a weight or start exactly as it is written: 0.05 is 5/100, not the binary number next to it."""
    from fractions import Fraction

    number = Fraction(-1)
    if isinstance(value, numbers.Rational):
        number = Fraction(value)
    elif isinstance(value, numbers.Real) and math.isfinite(value):
        number = Fraction(repr(float(value)))
    if number >= 0 and not isinstance(value, bool):
        return number
    msg = f"Stage {_quoted(name)} has the {what} {_quoted(value)}: expected a finite number, zero or more."
    raise ConfigurationError(msg)


def _percent(start: Fraction) -> str:
    return f"{float(start):g} %" if start < 10**9 else "more than a billion %"


def _quoted(value: object) -> str:
    try:
        return truncate(repr(value.name if isinstance(value, Enum) else value), 80)
    except Exception:
        return f"<{type(value).__name__}>"


def _listed(names: Iterable[str]) -> str:
    return truncate(", ".join(_quoted(name) for name in names), 400)


def _guess(name: object, known: Iterable[str]) -> str:
    wanted = name.name if isinstance(name, Enum) else str(name)
    import difflib  # only ever needed for an error

    close = difflib.get_close_matches(wanted[:80], [entry[:80] for entry in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@cache
def _registry() -> dict[str, Stages]:
    """Return stages by category, made when first asked for; the built-in weights are shares of time of typical runs on one GPU."""
    return {
        "default": Stages(queue=0.02, preparation=0.08, execution=0.85, finalisation=0.05),
        "image": Stages(queue=0.05, model_loading=0.15, generation=0.70, post_processing=0.10),
        "video": Stages(queue=0.03, model_loading=0.07, generation=0.70, interpolation=0.08, encoding=0.12),
        "audio": Stages(queue=0.05, model_loading=0.15, synthesis=0.65, mixing=0.10, encoding=0.05),
    }
