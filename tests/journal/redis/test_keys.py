"""Sortable texts of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_progress.journal.redis.keys import JournalKeys, decode_time, encode_number, encode_time

INT64 = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)


@given(INT64, INT64)
def test_texts_of_numbers_sort_like_the_numbers(one: int, other: int) -> None:
    assert (encode_number(one) < encode_number(other)) is (one < other)


@given(REAL, REAL)
def test_texts_of_times_sort_like_the_times(one: float, other: float) -> None:
    """They have all digits."""
    assert (encode_time(one) < encode_time(other)) is (one < other)
    assert decode_time(encode_time(one)) == one


@given(st.text(), st.sampled_from(["levels", "infos", "events", "logs", "previews", "run_meta"]))
def test_keys_of_a_run_have_one_hash_tag(run: str, kind: str) -> None:
    """Braces in an id do not change the tag."""
    keys = JournalKeys("default")

    def get_tag(key: str) -> str:
        start = key.index("{")
        return key[start + 1 : key.index("}", start)]

    assert get_tag(getattr(keys, kind)(run)) == get_tag(keys.log_levels(run))
    assert {get_tag(key) for key in keys.indexes} == {"default"}


@given(st.text())
def test_keys_of_a_run_are_listed_in_the_order_of_the_scripts(run: str) -> None:
    keys = JournalKeys("default")
    kinds = (
        keys.levels, keys.infos, keys.run_meta, keys.events, keys.logs,
        keys.log_levels, keys.previews, keys.contributions,
    )  # fmt: skip
    assert keys.list_run_keys(run) == tuple(get_key(run) for get_key in kinds)
