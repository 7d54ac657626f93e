"""Journals: what workers did and do, kept beyond their end and readable from other processes."""

from otel_progress.journal.base import Journal
from otel_progress.journal.opening import default_path, open_journal
from otel_progress.journal.sqlite import SqliteJournal

__all__ = ["Journal", "SqliteJournal", "default_path", "open_journal"]
