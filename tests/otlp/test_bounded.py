"""Sender and Patience: who waits, for how long, what is counted and what is logged."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from otel_progress.exporters import otlp_sender
from otel_progress.exporters.otlp_sender import Patience, Sender, speak_for, within
from otel_progress.testing import FakeClock

LOGGER = "otel_progress.exporters.otlp_sender"
LONG_S = 60.0
"""Far longer than any test; nothing here may wait for it."""


@pytest.fixture
def senders() -> Iterator[list[Sender[str]]]:
    """Senders to stop after the test; their threads end with it, so that what they log is not taken for that of another."""
    made: list[Sender[str]] = []
    yield made
    for sender in made:
        sender.stop()
    runs = [sender._run for sender in made]
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) in runs:
            thread.join(LONG_S)
            assert not thread.is_alive(), "a sender did not end"


def make(senders: list[Sender[str]], export: Callable[[str], bool], **options: object) -> Sender[str]:
    """Return a sender that is stopped after the test."""
    sender = Sender("spans", export, lambda: None, **options)  # type: ignore[arg-type]
    senders.append(sender)
    return sender


def test_send_waits_and_says_whether_it_worked(senders: list[Sender[str]]) -> None:
    """The result is the exporter's own, from a thread of the sender."""
    threads = []

    def export(batch: str) -> bool:
        threads.append(threading.current_thread())
        return batch == "good"

    sender = make(senders, export)
    assert [sender.send("good"), sender.send("bad"), sender.send("good")] == [True, False, True]
    assert sender.failures == 1
    assert set(threads) != {threading.current_thread()}
    assert len(set(threads)) == 1


def test_closing_ends_the_wait_for_an_exporter_that_hangs(senders: list[Sender[str]]) -> None:
    """A batch in flight is given up when patience ends, later ones at once; both are counted."""
    entered, release = threading.Event(), threading.Event()

    def export(_: str) -> bool:
        entered.set()
        return release.wait(4 * LONG_S)

    sender = make(senders, export, patience=Patience(0.1))
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(sender.send("first")))
    waiting.start()
    assert entered.wait(LONG_S)
    sender.closing()
    waiting.join(LONG_S)
    assert results == [False]
    assert sender.send("second") is False
    sender.stop()
    assert sender.failures == 2
    release.set()


def test_patience_is_shared_and_leaves_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to close starts the clock for all; one that comes after the limit still has a moment."""
    clock = FakeClock(monotonic=100.0)
    monkeypatch.setattr(otlp_sender, "time", clock)
    patience = Patience(5.0)
    assert patience.deadline() == 105.0
    clock.advance(4.0)
    assert patience.deadline() == 105.0
    clock.advance(6.0)
    assert 110.0 < patience.deadline() < 111.0


def test_an_outage_is_logged_once_and_its_end_once(senders: list[Sender[str]], caplog: pytest.LogCaptureFixture) -> None:
    """However many batches fail there is one warning with the reason and one line when it works again; all are counted."""
    answers = iter([False, False, False, True, True, False])
    errors: list[int] = []
    sender = make(senders, lambda _: next(answers), on_error=lambda: errors.append(1))
    with caplog.at_level(logging.INFO, logger="otel_progress"):
        for number in range(6):
            sender.send(str(number))
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["WARNING", "INFO", "WARNING"]
    assert len(errors) == sender.failures == 4


def test_a_batch_is_failed_or_given_up_but_not_both(senders: list[Sender[str]]) -> None:
    """When the sender stops while the failure of a batch is being counted, that batch is not lost a second time."""
    counting, release, errors = threading.Event(), threading.Event(), []

    def count() -> None:
        errors.append(1)
        if not counting.is_set():
            counting.set()
            release.wait(LONG_S)

    sender = make(senders, lambda _: False, on_error=count)
    busy = threading.Thread(target=sender.send, args=("lost",))
    busy.start()
    assert counting.wait(LONG_S)
    sender.stop()
    release.set()
    busy.join(LONG_S)
    assert sender.failures == len(errors) == 1


def test_exception_of_an_exporter_is_a_failure_with_its_text(
    senders: list[Sender[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever an exporter raises is counted and told, and the next batch goes."""

    def export(batch: str) -> bool:
        if batch == "bad":
            msg = "cannot encode"
            raise ValueError(msg)
        return True

    sender = make(senders, export)
    assert [sender.send("bad"), sender.send("good")] == [False, True]
    assert "ValueError: cannot encode" in caplog.text


def test_own_log_lines_of_an_exporter_are_told_by_the_sender(
    senders: list[Sender[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Under a sender the exporter's warnings become the reason in its one line; called elsewhere the exporter logs as ever."""
    logger = logging.getLogger("opentelemetry.exporter.otel_progress_test")

    class Exporter:
        def export(self, _: str) -> bool:
            logger.error("Failed to export: code %d", 503)
            return False

    Exporter.__module__ = logger.name
    exporter = Exporter()
    speak_for(exporter)
    sender = make(senders, exporter.export)
    sender.send("x")
    assert [record.name for record in caplog.records if record.name in (LOGGER, logger.name)] == [LOGGER]
    assert "Failed to export: code 503" in caplog.text
    exporter.export("x")
    assert [record.name for record in caplog.records if record.name in (LOGGER, logger.name)] == [LOGGER, logger.name]


def test_error_in_counting_does_not_stop_the_sending(senders: list[Sender[str]]) -> None:
    """When the callback that counts a loss raises, the next batch goes all the same."""

    def count() -> None:
        msg = "cannot count"
        raise RuntimeError(msg)

    sender = make(senders, lambda batch: batch == "good", on_error=count)
    assert [sender.send("bad"), sender.send("good")] == [False, True]


def test_stop_is_safe_twice_and_an_error_in_it_harms_nobody() -> None:
    """The exporter is closed once, whatever that raises, and sending afterwards fails at once."""
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        msg = "already gone"
        raise OSError(msg)

    sender: Sender[str] = Sender("spans", lambda _: True, stop)
    sender.stop()
    sender.stop()
    assert calls == [1]
    assert sender.send("late") is False


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_sends_on_a_thread_of_its_own(senders: list[Sender[str]]) -> None:
    """A child that is forked while the parent's sender is busy can send."""
    entered, release = threading.Event(), threading.Event()
    parent = os.getpid()

    def export(_: str) -> bool:
        if os.getpid() == parent:
            entered.set()
            release.wait(2 * LONG_S)
        return True

    sender = make(senders, export)
    busy = threading.Thread(target=sender.send, args=("parent",))
    busy.start()
    assert entered.wait(LONG_S)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(LONG_S))  # a child that waits for ever fails the test instead of hanging it
            os._exit(0 if sender.send("child") else 1)
        finally:  # whatever fails, the child runs no tests
            os._exit(2)
    _, status = os.waitpid(child, 0)
    release.set()
    busy.join(LONG_S)
    assert os.waitstatus_to_exitcode(status) == 0, "the child could not send"


def test_within_says_whether_a_call_ended_in_time() -> None:
    """A call that takes longer goes on by itself; the caller is told."""
    release = threading.Event()
    assert within(LONG_S, lambda: None) is True
    assert within(0.01, lambda: release.wait(4 * LONG_S)) is False
    release.set()
