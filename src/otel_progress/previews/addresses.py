"""Under which address a preview can be looked at, once it is known under which people reach the server. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

MAX_ADDRESS: Final = 2048
"""Longest address, in characters; beyond that browsers and proxies refuse it, so it is left out."""


def address_of(base: str | None, operation_id: str, number: object) -> str:
    """Return the address of a preview of the newest run of an operation under ``base``; empty when there is none or it is not known."""
    if not base or type(number) is not int or number < 1 or len(operation_id) > MAX_ADDRESS:
        return ""
    address = f"{base.rstrip('/')}/api/v1/operations/{quote(operation_id, safe='', errors='replace')}/previews/{number}"
    return address if len(address) <= MAX_ADDRESS and address.isprintable() else ""
