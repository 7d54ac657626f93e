"""Text form of a parent link, for environment variables and headers.

The form is ``1;RUN;OPERATION-ID;PATH``. The first field is the version. The other fields are
percent-encoded UTF-8, so the text is printable ASCII without spaces. Further fields may follow in
later releases, and readers of this version ignore them. A text of another version is ignored.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from otel_progress.model import ParentLink
from otel_progress.text import MAX_ID

VARIABLE: Final = "OTEL_PROGRESS_PARENT"
"""Environment variable with a parent link."""


HEADER: Final = "otel-progress-parent"
"""Header of requests and messages with a parent link."""


VERSION: Final = "1"
"""Version of the text form."""


MAX_LINK_CHARACTERS: Final = 4096
"""Characters of an encoded link. A longer path is replaced by that of an ancestor when it is
encoded. A longer text is ignored when it is parsed.
"""


MAX_RUN_CHARACTERS: Final = 64
"""Characters of a run id. A link with a longer one is ignored."""


_SAFE: Final = "/:@+~,"
"""Characters that are not encoded, so that paths stay readable."""


_PRINTABLE: Final = re.compile(r"[!-~]+")


def format_parent_link(link: ParentLink, limit: int = MAX_LINK_CHARACTERS) -> str:
    """Return the text form of a link.

    If it would be longer than ``limit`` characters, the path is that of the nearest ancestor that
    fits. Ids alone may exceed a small limit.
    """
    start = f"{VERSION};{_quote(link.run)};{_quote(link.operation_id)};"
    path = link.path
    while path:
        encoded_path = _quote(path)
        if len(start) + len(encoded_path) <= limit:
            return start + encoded_path
        path = path.rpartition("/")[0]
    return start


def parse_parent_link(text: object) -> ParentLink | None:
    """Return the link of a text form, or None if it is invalid or of another version.

    Never raises.
    """
    if not isinstance(text, str) or len(text) > MAX_LINK_CHARACTERS:
        return None
    text = text.strip(" \t")
    if _PRINTABLE.fullmatch(text) is None:
        return None
    version, *fields = text.split(";")
    if version != VERSION or len(fields) < 3:
        return None
    try:
        run, operation_id, path = (unquote(field, errors="strict") for field in fields[:3])
    except UnicodeDecodeError:
        return None
    if not 0 < len(run) <= MAX_RUN_CHARACTERS or not 0 < len(operation_id) <= MAX_ID:
        return None
    if path and not all(":" in segment for segment in path.split("/")):
        return None
    return ParentLink(operation_id, run, path)


def _quote(text: str) -> str:
    return quote(text, safe=_SAFE, errors="backslashreplace")
