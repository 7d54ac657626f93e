"""Stages: weights, starts, enums, the registry, and what is refused."""

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
from otel_progress.stages import MAX_STAGES, Stage, Stages, as_stages, stage_name

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
    """Mere numbering."""

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
    kept = module._registry().copy()
    monkeypatch.setattr(module, "_registry", lambda: kept)


def test_weights_are_normalised_and_read_as_written() -> None:
    """Decimal weights start the stages exactly where one adds them up by hand, on any scale."""
    made = Stages(queue=0.05, model_loading=0.15, generation=0.70, post_processing=0.10)
    expected = [
        Stage("queue", 0.05, 0.0),
        Stage("model_loading", 0.15, 0.05),
        Stage("generation", 0.70, 0.20),
        Stage("post_processing", 0.10, 0.90),
    ]
    assert list(made) == expected
    assert made == Stages(queue=5, model_loading=15, generation=70, post_processing=10)


def test_looks_like_a_collection() -> None:
    """Names, length, membership, index and lookup agree, also for Enum members."""
    made = Stages({"LOAD": 1, "any name ☃": 3})
    assert made.names == ("LOAD", "any name ☃")
    assert len(made) == 2
    assert "LOAD" in made
    assert Phase.LOAD in made
    assert Phase.WORK not in made
    assert made["LOAD"] in made
    assert Stage("LOAD", 0.5, 0.0) not in made
    assert 7 not in made
    assert "" not in made
    assert made.index("any name ☃") == 1
    assert made[Phase.LOAD] == Stage("LOAD", 0.25, 0.0)
    assert repr(made) == "Stages({'LOAD': 0.25, 'any name ☃': 0.75})"
    assert eval(repr(made)) == made


def test_is_an_immutable_value() -> None:
    """Equal stages are equal as keys, survive pickle and copy, and cannot be changed; order matters."""
    made = Stages(a=1, b=2)
    assert {made: 1}[Stages(a=2, b=4)] == 1
    assert made != Stages(b=2, a=1)
    for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert twin == made
        assert twin.index("b") == 1
    with pytest.raises(AttributeError):
        made._stages = ()  # type: ignore[misc]


def test_a_keyword_may_be_called_like_the_parameter() -> None:
    """The mapping is positional only, so a stage can have any name; both forms add up."""
    assert Stages({"a": 1}, weights=1).names == ("a", "weights")


def test_starts_are_percentages() -> None:
    """A stage lasts until the next one, the last until 100, and the first begins at 0."""
    made = Stages.from_starts(DOWNLOADING=5, TRANSCRIBING=25, SAVING=90.5)
    expected = [
        Stage("DOWNLOADING", 0.25, 0.0),
        Stage("TRANSCRIBING", 0.655, 0.25),
        Stage("SAVING", 0.095, 0.905),
    ]
    assert list(made) == expected
    assert Stages.from_starts({"only": 100}) == Stages(only=1)


def test_enum_of_starts_weights_texts_and_numbering() -> None:
    """Numbers of an Enum are percent starts or weights; texts and auto() make equal stages."""
    assert Stages.from_enum(Start) == Stages.from_starts(DOWNLOADING=5, TRANSCRIBING=25, DONE=100)
    assert Stages.from_enum(Start, weights=True) == Stages(DOWNLOADING=5, TRANSCRIBING=25, DONE=100)
    assert Stages.from_enum(Phase) == Stages(LOAD=1, WORK=1, SAVE=1, CLEAN=1)
    assert Stages.from_enum(Phase, weights=True) == Stages(LOAD=1, WORK=2, SAVE=3, CLEAN=4)
    assert Stages.from_enum(Word) == Stages(LOAD=1, WORK=1)
    assert Word.WORK in Stages.from_enum(Word)


def test_stage_name() -> None:
    """An Enum member stands for its name, a text for the id its level has."""
    assert stage_name(Word.LOAD) == "LOAD"
    assert stage_name("\ud800") == "\\ud800"
    assert len(stage_name("x" * 10_000_000)) == 256


def test_overall_of_a_stage() -> None:
    """The overall ratio is the share of all stages before plus the part of this one."""
    made = Stages(a=1, b=3, c=0)
    assert made.overall("b", 0.5) == 0.625
    assert made.overall("b", 1) == made.overall("c", 0) == made.overall("c", 1) == 1.0


@given(WEIGHTS)
def test_weights_sum_to_one_and_starts_ascend(weights: dict[str, float]) -> None:
    """Whatever the scale, weights sum to 1 and starts ascend from 0."""
    made = list(Stages(weights))
    assert math.fsum(stage.weight for stage in made) == pytest.approx(1.0)
    assert made[0].start == 0.0
    assert all(before.start <= after.start <= 1.0 for before, after in itertools.pairwise(made))


@given(WEIGHTS, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_overall_is_monotone_and_complete(weights: dict[str, float], ratios: list[float]) -> None:
    """Going through the stages in order never goes back, begins at 0 and ends at exactly 1."""
    made = Stages(weights)
    steps = [made.overall(name, ratio) for name in made.names for ratio in [0.0, *sorted(ratios), 1.0]]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)


@given(st.lists(st.floats(0, 100, exclude_max=True), min_size=1, max_size=10, unique=True))
def test_starts_are_kept(starts: list[float]) -> None:
    """Percent starts come back as fractions, except that the first stage takes from 0."""
    made = Stages.from_starts({f"s{place}": start for place, start in enumerate(sorted(starts))})
    assert [stage.start for stage in made] == pytest.approx(
        [0.0, *(start / 100 for start in sorted(starts)[1:])]
    )
    assert math.fsum(stage.weight for stage in made) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=6))
def test_starts_that_do_not_ascend_are_refused(starts: list[float]) -> None:
    """Starts out of order, equal, or above 100 are an error, never a guess."""
    ascending = all(before < after for before, after in itertools.pairwise(starts))
    assume(not ascending or starts[-1] > 100)
    with pytest.raises(ConfigurationError, match=r"ascend|from 0 to 100"):
        Stages.from_starts({f"s{place}": start for place, start in enumerate(starts)})


@pytest.mark.parametrize(
    "value",
    [-1, -0.5, math.nan, math.inf, "3", None, True, 1j, (1,), -(10**5000), Fraction(-1, 3)],
    ids=lambda value: type(value).__name__,
)
def test_bad_weights_are_refused(value: object) -> None:
    """A weight or start that is no finite number from zero up is named in the error, with its stage."""
    for make in (Stages, Stages.from_starts):
        with pytest.raises(
            ConfigurationError, match=r"Stage 'b' has the (weight|start) .*expected a finite number"
        ):
            make({"a": 1, "b": value})  # type: ignore[dict-item]


def test_extreme_weights_do_not_overflow() -> None:
    """Numbers no float can hold still make fractions that sum to 1."""
    made = Stages({"a": 10**400, "b": 10**400, "c": 5e-324})
    assert [stage.weight for stage in made] == [0.5, 0.5, 0.0]
    assert made["c"].start == 1.0


def test_numbers_of_other_libraries_are_weights() -> None:
    """Fractions are kept exactly."""
    assert [stage.weight for stage in Stages(a=Fraction(1, 3), b=Fraction(2, 3))] == [1 / 3, 2 / 3]  # type: ignore[arg-type]


NOBODY = cast("type[Enum]", Enum("Nobody", []))
"""An Enum without members."""
TWIN = cast("type[Enum]", Enum("Twin", {"A": 1, "B": 1}))
"""Two names of one value, which Enum makes one member."""


class Pair(Enum):
    """Values that mean nothing as stages."""

    A = (1, 2)
    B = (3, 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stages(), "There are no stages"),
        (lambda: Stages({}), "There are no stages"),
        (lambda: Stages.from_starts(), "There are no stages"),
        (lambda: Stages.from_enum(NOBODY), "There are no stages"),
        (lambda: Stages(a=0, b=0), "All stages have weight 0 .'a', 'b'."),
        (lambda: Stages({"": 1}), "expected a text that is not empty"),
        (lambda: Stages({3: 1}), "A stage is named 3"),
        (lambda: Stages({"LOAD": 1, Phase.LOAD: 2}), "'LOAD' is there twice"),
        (lambda: Stages({"a": 1}, a=1), "'a' is there twice"),
        (lambda: Stages("image"), "looked up with Stages.named"),  # type: ignore[arg-type]
        (
            lambda: Stages.from_starts(a=0, b=10**4000),
            "more than a billion %: percent starts are from 0 to 100",
        ),
        (lambda: Stages.from_enum(TWIN), "B has the value of A"),
        (lambda: Stages.from_enum(Pair), r"'A' has the start \(1, 2\)"),
        (lambda: Stages.from_enum("Pair"), "expected an Enum class"),  # type: ignore[arg-type]
        (lambda: Stages(load=1).index("laod"), "Did you mean 'load'.*The stages are: 'load'"),
        (lambda: Stages(load=1)[Phase.WORK], "no stage 'WORK'"),
        (lambda: Stages(load=1).overall("load", 1.1), "expected a number from 0 to 1"),
        (lambda: Stages(load=1).overall("load", math.nan), "expected a number from 0 to 1"),
        (
            lambda: Stages.named("imgae"),
            "Did you mean 'image'.*Known are: 'audio', 'default', 'image', 'video'",
        ),
        (lambda: Stages.named(None), "no stages for the category None"),  # type: ignore[arg-type]
        (lambda: Stages.register("", Stages(a=1)), "category of stages is named ''"),
        (lambda: Stages.register("x", None), "without stages"),  # type: ignore[arg-type]
        (lambda: Stages.register("image", Stages(a=1)), "already has other stages. Pass replace=True"),
        (lambda: as_stages(3), "cannot be made from 3"),  # type: ignore[arg-type]
        (lambda: as_stages(b"ab"), "cannot be made from b'ab'"),  # type: ignore[arg-type]
        (lambda: as_stages(["a", "b", "a"]), "'a' is there twice"),
        (lambda: as_stages(str(n) for n in itertools.count()), f"more than {MAX_STAGES} stages"),
    ],
)
def test_errors_say_what_was_wrong(make: object, says: str) -> None:
    """Each mistake has a message of its own that says what was wrong and what helps."""
    with pytest.raises(ConfigurationError, match=says):
        make()  # type: ignore[operator]


def test_error_texts_are_short_and_one_line() -> None:
    """A hostile name of 10 MB with control characters makes a short message without them."""
    with pytest.raises(ConfigurationError) as caught:
        Stages(load=1).index("\x1b[2J\n" * 2_000_000)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("category", ["default", "image", "video", "audio"])
def test_built_in_categories(category: str) -> None:
    """Every built-in category has stages whose weights were written to sum to 1."""
    made = Stages.named(category)
    assert category in Stages.categories()
    assert math.fsum(stage.weight for stage in made) == pytest.approx(1.0)
    assert made.names[0] == "queue"


def test_register_and_replace() -> None:
    """A category is added once, may be repeated unchanged, and changes only when told to."""
    mine = Stages.register("render", {"load": 1, "draw": 3})
    assert Stages.named("render") is mine
    assert Stages.register("render", Stages(load=1, draw=3)) == mine
    other = Stages.register("render", Start, replace=True)
    assert Stages.named("render") is other
    assert "render" in Stages.categories()


def test_register_from_threads_has_one_winner() -> None:
    """Of many threads that register different stages under one name exactly one succeeds, and its stages stay."""

    def attempt(weight: int) -> Stages | None:
        try:
            return Stages.register("contested", Stages(a=1, b=weight))
        except ConfigurationError:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [made for made in pool.map(attempt, range(1, 200)) if made is not None]
    assert winners == [Stages.named("contested")]


def test_as_stages_takes_what_callers_write() -> None:
    """None, stages, a category, weights, an Enum class and names all make stages."""
    made = Stages(a=1, b=1)
    assert as_stages(None) is None
    assert as_stages(made) is made
    assert as_stages("image") is Stages.named("image")
    assert as_stages({"a": 2, "b": 2}) == made
    assert as_stages(Phase) == Stages.from_enum(Phase)
    assert as_stages(["a", "b"]) == as_stages(name for name in "ab") == made
    assert as_stages([Phase.LOAD, "x"]) == Stages(LOAD=1, x=1)


def test_docstrings_run() -> None:
    """The example of the class does what it says."""
    assert doctest.testmod(module).failed == 0
