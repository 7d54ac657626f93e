"""Journals store the progress of processes beyond their end, for all processes."""

from otel_progress.journal.protocol import Journal, JournalFinding
from otel_progress.journal.registry import default_path, open_journal
from otel_progress.journal.sqlite.journal import SqliteJournal

__all__ = ["Journal", "JournalFinding", "SqliteJournal", "default_path", "open_journal"]
