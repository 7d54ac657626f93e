"""Journals keep what happened beyond the process: each is a Sink and a Reader, and one behaviour suite runs on all."""

from __future__ import annotations
