"""Tests of stages: weights, starts, enums, the registry, and invalid values."""

from __future__ import annotations

import copy
import doctest
import itertools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, IntEnum, auto
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from otel_progress import stages as module
from otel_progress.errors import ConfigurationError
from otel_progress.stages import MAX_STAGES, Stage, Stages, to_stage_name, to_stages

WEIGHTS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.one_of(st.integers(0, 10**30), st.floats(0, 1e300), st.fractions(min_value=0)),
    min_size=1,
    max_size=12,
).filter(lambda weights: any(weights.values()))


class Start(IntEnum):
    """Percent starts."""

    DOWNLOADING = 5
    TRANSCRIBING = 25
    DONE = 100


class Phase(Enum):
    """Numbers without a meaning."""

    LOAD = auto()
    WORK = auto()
    SAVE = auto()
    CLEAN = auto()


class Word(str, Enum):
    """Texts."""

    LOAD = "load"
    WORK = "work"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a registry of its own."""
    registry = module._get_registry().copy()
    monkeypatch.setattr(module, "_get_registry", lambda: registry)


def test_stages_with_decimal_weights_have_exact_starts() -> None:
    """Stages start at the exact decimal sum of the weights before them, on any scale."""
    stages = Stages(queue=0.05, model_loading=0.15, generation=0.70, post_processing=0.10)
    expected = [
        Stage("queue", 0.05, 0.0),
        Stage("model_loading", 0.15, 0.05),
        Stage("generation", 0.70, 0.20),
        Stage("post_processing", 0.10, 0.90),
    ]
    assert list(stages) == expected
    assert stages == Stages(queue=5, model_loading=15, generation=70, post_processing=10)


def test_stages_behave_like_a_collection() -> None:
    """Names, length, membership, index and lookup agree, also for Enum members."""
    stages = Stages({"LOAD": 1, "any name ☃": 3})
    assert stages.names == ("LOAD", "any name ☃")
    assert len(stages) == 2
    assert "LOAD" in stages
    assert Phase.LOAD in stages
    assert Phase.WORK not in stages
    assert stages["LOAD"] in stages
    assert Stage("LOAD", 0.5, 0.0) not in stages
    assert 7 not in stages
    assert "" not in stages
    assert stages.index("any name ☃") == 1
    assert stages[Phase.LOAD] == Stage("LOAD", 0.25, 0.0)
    assert repr(stages) == "Stages({'LOAD': 0.25, 'any name ☃': 0.75})"
    assert eval(repr(stages)) == stages


def test_stages_are_an_immutable_value() -> None:
    """Stages are hashable, can be pickled and copied, and compare by order."""
    stages = Stages(a=1, b=2)
    assert {stages: 1}[Stages(a=2, b=4)] == 1
    assert stages != Stages(b=2, a=1)
    for twin in (pickle.loads(pickle.dumps(stages)), copy.deepcopy(stages)):
        assert twin == stages
        assert twin.index("b") == 1
    with pytest.raises(AttributeError):
        stages._stages = ()  # type: ignore[misc]


def test_stages_with_keyword_named_weights_are_accepted() -> None:
    """The mapping is positional only, so a stage can have any name."""
    assert Stages({"a": 1}, weights=1).names == ("a", "weights")


def test_from_starts_with_percentages_sets_weights() -> None:
    """A stage lasts until the next one, the last one until 100. The first starts at 0."""
    stages = Stages.from_starts(DOWNLOADING=5, TRANSCRIBING=25, SAVING=90.5)
    expected = [
        Stage("DOWNLOADING", 0.25, 0.0),
        Stage("TRANSCRIBING", 0.655, 0.25),
        Stage("SAVING", 0.095, 0.905),
    ]
    assert list(stages) == expected
    assert Stages.from_starts({"only": 100}) == Stages(only=1)


def test_from_enum_accepts_starts_weights_texts_and_numbering() -> None:
    """Numbers are percent starts or weights. Texts and auto() become equal stages."""
    assert Stages.from_enum(Start) == Stages.from_starts(DOWNLOADING=5, TRANSCRIBING=25, DONE=100)
    assert Stages.from_enum(Start, weights=True) == Stages(DOWNLOADING=5, TRANSCRIBING=25, DONE=100)
    assert Stages.from_enum(Phase) == Stages(LOAD=1, WORK=1, SAVE=1, CLEAN=1)
    assert Stages.from_enum(Phase, weights=True) == Stages(LOAD=1, WORK=2, SAVE=3, CLEAN=4)
    assert Stages.from_enum(Word) == Stages(LOAD=1, WORK=1)
    assert Word.WORK in Stages.from_enum(Word)


def test_stage_name_of_member_or_text_is_an_id() -> None:
    """The name of an Enum member is used. A text becomes the id of its level."""
    assert to_stage_name(Word.LOAD) == "LOAD"
    assert to_stage_name("\ud800") == "\\ud800"
    assert len(to_stage_name("x" * 10_000_000)) == 256


def test_overall_adds_previous_stages() -> None:
    """The ratio is the weight of all previous stages plus the done part of this one."""
    stages = Stages(a=1, b=3, c=0)
    assert stages.overall("b", 0.5) == 0.625
    assert stages.overall("b", 1) == stages.overall("c", 0) == stages.overall("c", 1) == 1.0


@given(WEIGHTS)
def test_stages_with_any_scale_sum_to_one_and_ascend(weights: dict[str, float]) -> None:
    """Weights of any scale sum to 1, and starts ascend from 0."""
    stages = list(Stages(weights))
    assert math.fsum(stage.weight for stage in stages) == pytest.approx(1.0)
    assert stages[0].start == 0.0
    assert all(before.start <= after.start <= 1.0 for before, after in itertools.pairwise(stages))


@given(WEIGHTS, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_overall_over_all_stages_ascends_from_0_to_1(weights: dict[str, float], ratios: list[float]) -> None:
    """The overall ratio never decreases and ends at exactly 1."""
    stages = Stages(weights)
    steps = [stages.overall(name, ratio) for name in stages.names for ratio in [0.0, *sorted(ratios), 1.0]]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)


@given(st.lists(st.floats(0, 100, exclude_max=True), min_size=1, max_size=10, unique=True))
def test_from_starts_keeps_the_starts(starts: list[float]) -> None:
    """Percent starts become fractions, except that the first stage starts at 0."""
    stages = Stages.from_starts({f"s{index}": start for index, start in enumerate(sorted(starts))})
    assert [stage.start for stage in stages] == pytest.approx(
        [0.0, *(start / 100 for start in sorted(starts)[1:])]
    )
    assert math.fsum(stage.weight for stage in stages) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=6))
def test_from_starts_with_wrong_order_is_rejected(starts: list[float]) -> None:
    """Starts that do not ascend, are equal, or exceed 100 raise an error."""
    ascending = all(before < after for before, after in itertools.pairwise(starts))
    assume(not ascending or starts[-1] > 100)
    with pytest.raises(ConfigurationError, match=r"ascend|expected 0 to 100"):
        Stages.from_starts({f"s{index}": start for index, start in enumerate(starts)})


@pytest.mark.parametrize(
    "value",
    [-1, -0.5, math.nan, math.inf, "3", None, True, 1j, (1,), -(10**5000), Fraction(-1, 3)],
    ids=lambda value: type(value).__name__,
)
def test_stages_with_invalid_number_are_rejected(value: object) -> None:
    """The error names the stage and the invalid weight or start."""
    for make in (Stages, Stages.from_starts):
        with pytest.raises(
            ConfigurationError, match=r"Invalid (weight|start) .* of stage 'b': expected a finite number"
        ):
            make({"a": 1, "b": value})  # type: ignore[dict-item]


def test_stages_with_extreme_weights_do_not_overflow() -> None:
    """Numbers outside the range of float become fractions that sum to 1."""
    stages = Stages({"a": 10**400, "b": 10**400, "c": 5e-324})
    assert [stage.weight for stage in stages] == [0.5, 0.5, 0.0]
    assert stages["c"].start == 1.0


def test_stages_with_fractions_keep_exact_weights() -> None:
    """Fractions are not rounded."""
    assert [stage.weight for stage in Stages(a=Fraction(1, 3), b=Fraction(2, 3))] == [1 / 3, 2 / 3]  # type: ignore[arg-type]


EMPTY = cast("type[Enum]", Enum("Empty", []))
"""An Enum without members."""
TWIN = cast("type[Enum]", Enum("Twin", {"A": 1, "B": 1}))
"""Two names with one value. Enum makes the second one an alias."""


class Pair(Enum):
    """Values that are neither starts nor weights."""

    A = (1, 2)
    B = (3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stages(), "expected at least one stage"),
        (lambda: Stages({}), "expected at least one stage"),
        (lambda: Stages.from_starts(), "expected at least one stage"),
        (lambda: Stages.from_enum(EMPTY), "expected at least one stage"),
        (lambda: Stages(a=0, b=0), "Invalid weights 0 of all stages .'a', 'b'."),
        (lambda: Stages({"": 1}), "expected a text that is not empty"),
        (lambda: Stages({3: 1}), "Invalid stage 3"),
        (lambda: Stages({"LOAD": 1, Phase.LOAD: 2}), "Invalid stage 'LOAD': expected a unique name"),
        (lambda: Stages({"a": 1}, a=1), "Invalid stage 'a': expected a unique name"),
        (lambda: Stages("image"), "Use Stages.named"),  # type: ignore[arg-type]
        (
            lambda: Stages.from_starts(a=0, b=10**4000),
            "Invalid start more than a billion % of stage 'b': expected 0 to 100",
        ),
        (lambda: Stages.from_enum(TWIN), r"Invalid value of Twin\.B: expected another value than that of A"),
        (lambda: Stages.from_enum(Pair), r"Invalid start \(1, 2\) of stage 'A'"),
        (lambda: Stages.from_enum("Pair"), "expected an Enum class"),  # type: ignore[arg-type]
        (
            lambda: Stages(load=1).index("laod"),
            "Invalid stage 'laod': expected one of 'load'.*Did you mean 'load'",
        ),
        (lambda: Stages(load=1)[Phase.WORK], "Invalid stage 'WORK'"),
        (lambda: Stages(load=1).overall("load", 1.1), "expected a number from 0 to 1"),
        (lambda: Stages(load=1).overall("load", math.nan), "expected a number from 0 to 1"),
        (
            lambda: Stages.named("imgae"),
            "expected one of 'audio', 'default', 'image', 'video'.*Did you mean 'image'",
        ),
        (lambda: Stages.named(None), "Invalid category None"),  # type: ignore[arg-type]
        (lambda: Stages.register("", Stages(a=1)), "Invalid category ''"),
        (lambda: Stages.register("x", None), "Invalid stages None of category 'x'"),  # type: ignore[arg-type]
        (lambda: Stages.register("image", Stages(a=1)), "already has other stages. Pass replace=True"),
        (lambda: to_stages(3), "Invalid stages 3"),  # type: ignore[arg-type]
        (lambda: to_stages(b"ab"), "Invalid stages b'ab'"),  # type: ignore[arg-type]
        (lambda: to_stages(["a", "b", "a"]), "Invalid stage 'a': expected a unique name"),
        (lambda: to_stages(str(n) for n in itertools.count()), f"expected at most {MAX_STAGES}"),
    ],
)
def test_stages_with_invalid_value_have_specific_message(make: object, message: str) -> None:
    """The message has the invalid value, the expected value, and the fix."""
    with pytest.raises(ConfigurationError, match=message):
        make()  # type: ignore[operator]


def test_error_of_hostile_name_is_short_and_printable() -> None:
    """A 10 MB name with control characters has a short message without them."""
    with pytest.raises(ConfigurationError) as error:
        Stages(load=1).index("\x1b[2J\n" * 2_000_000)
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()


@pytest.mark.parametrize("category", ["default", "image", "video", "audio"])
def test_built_in_category_has_weights_that_sum_to_one(category: str) -> None:
    """The first built-in stage is the queue."""
    stages = Stages.named(category)
    assert category in Stages.categories()
    assert math.fsum(stage.weight for stage in stages) == pytest.approx(1.0)
    assert stages.names[0] == "queue"


def test_register_with_other_stages_requires_replace() -> None:
    """Registering equal stages again does nothing. Other stages need ``replace=True``."""
    registered = Stages.register("render", {"load": 1, "draw": 3})
    assert Stages.named("render") is registered
    assert Stages.register("render", Stages(load=1, draw=3)) == registered
    other = Stages.register("render", Start, replace=True)
    assert Stages.named("render") is other
    assert "render" in Stages.categories()


def test_register_from_threads_has_one_winner() -> None:
    """One of many threads that register different stages for a category succeeds."""

    def attempt(weight: int) -> Stages | None:
        try:
            return Stages.register("contested", Stages(a=1, b=weight))
        except ConfigurationError:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [stages for stages in pool.map(attempt, range(1, 200)) if stages is not None]
    assert winners == [Stages.named("contested")]


def test_as_stages_accepts_all_documented_values() -> None:
    """Values are None, stages, a category, weights, an Enum class and names."""
    stages = Stages(a=1, b=1)
    assert to_stages(None) is None
    assert to_stages(stages) is stages
    assert to_stages("image") is Stages.named("image")
    assert to_stages({"a": 2, "b": 2}) == stages
    assert to_stages(Phase) == Stages.from_enum(Phase)
    assert to_stages(["a", "b"]) == to_stages(name for name in "ab") == stages
    assert to_stages([Phase.LOAD, "x"]) == Stages(LOAD=1, x=1)


def test_docstring_examples_succeed() -> None:
    """The example in the docstring of Stages has the documented result."""
    assert doctest.testmod(module).failed == 0
