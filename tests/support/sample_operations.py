"""Journal content: operations in every state, with hostile names."""

from __future__ import annotations

from otel_progress.batches import BatchDeclaration
from otel_progress.model import Failure, LevelSnapshot, Outcome, Status
from otel_progress.protocols import Sink
from tests.support.factories import CLOCK, WALL, ended, event, log, make_change_set, path_of, sample, snapshot

NOW_WALL = WALL + 120.0
"""Unix time at which the journals are read, and the monotonic clock at that time."""
NOW_CLOCK = CLOCK + 120.0

EVIL_ID = "a/b%c?d#e&f=g \"'<script>alert(1)</script>\x1b[31m\r\nX-Injected: x=1 ..\\é😀"
"""An id with every character that is special in a URL, a header, a page or a terminal."""
EVIL_TEXT = "<img src=x onerror=alert(1)>\x1b]0;owned\x07\u202eevil\u2028 \x00 =cmd|' /C calc'!A0"

SONG = path_of(("song", "07"))
VERSE = f"{SONG}/{path_of(('verse', 'a/b'))}"


def fill(journal: Sink) -> None:
    """Write the content.

    ``friday-42`` runs with levels, the hostile one runs, ``done-N`` have ended, ``broken`` has
    failed.
    """
    journal.write(
        make_change_set(
            snapshot(
                name="Friday",
                current=3,
                total=10,
                ratio=0.3,
                metadata={"customer": "acme", "tries": 3, "tags": ("a", "b")},
            ),
            snapshot(SONG, current=1, total=4, ratio=0.25, failed=1),
            snapshot(VERSE, message="in a verse"),
            *_other_operations(),
            events=[
                event(1, SONG, name="one", outcome=Outcome.COMPLETED),
                event(
                    2,
                    SONG,
                    name=EVIL_TEXT,
                    outcome=Outcome.FAILED,
                    error=Failure("OSError", EVIL_TEXT, "Traceback"),
                ),
            ],
            logs=[log(1), log(2, SONG, severity=40, severity_text="ERROR", message=EVIL_TEXT), log(3, SONG)],
            sample=sample(30.0),
            batches=[BatchDeclaration("b/1", "thumbnails", "batch", 4, WALL, None, 1)],
        )
    )


def _other_operations() -> list[LevelSnapshot]:
    evil = snapshot(
        operation_id=EVIL_ID, id=EVIL_ID, run="run-evil", name=EVIL_TEXT, message=EVIL_TEXT,
        metadata={EVIL_TEXT: EVIL_TEXT},
        started_at=WALL + 1,
    )  # fmt: skip
    done = [
        ended(
            operation_id=f"done-{number}", id=f"done-{number}", run=f"run-done-{number}",
            name=f"Done {number}",
            operation_type="backup", type="backup", started_at=WALL - 1 - number, ended_at=WALL + 60 - number,
            ratio=1.0, current=5, total=5, batch="b/1",
        )
        for number in range(3)
    ]  # fmt: skip
    broken = ended(
        operation_id="broken", id="broken", run="run-broken", name="Broken", status=Status.FAILED,
        started_at=WALL - 50,
        ended_at=WALL - 20, duration_s=30.0, error=Failure("OSError", "disk full"), batch="b/1",
    )  # fmt: skip
    return [evil, *done, broken]
