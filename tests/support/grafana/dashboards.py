"""Panels, queries and variables of the committed dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[3] / "grafana" / "dashboards"
"""The folder of the dashboards."""
GLOBALS: Final = {
    "__rate_interval": "1m0s",
    "__interval": "15s",
    "__interval_ms": "15000",
    "__range": "7200s",
    "__from": "0",
    "__to": "1",
}
"""Values of Grafana's own variables. No query contains a window of one minute in this form, so a
test can recognise it.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A query of a panel and its location."""

    board: str
    panel: Mapping[str, Any]
    json: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """``prometheus``, ``loki`` or ``tempo``."""
        return str(self.json["datasource"]["type"])

    @property
    def expression(self) -> str:
        """The query as written, with variables."""
        return str(self.json["query"] if self.kind == "tempo" else self.json["expr"])

    def __str__(self) -> str:
        return f"{self.board}: {self.panel['title']} {self.json['refId']}"


def boards() -> dict[str, dict[str, Any]]:
    """Return all dashboards by file name."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: Mapping[str, Any], *, rows: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, including those in collapsed rows.

    Rows themselves are optional.
    """
    for panel in board["panels"]:
        if panel["type"] != "row" or rows:
            yield panel
        yield from panel.get("panels") or ()


def targets() -> list[Target]:
    """Return every query of every panel."""
    return [
        Target(name, panel, target)
        for name, board in boards().items()
        for panel in panels(board)
        for target in panel.get("targets", ())
    ]


def variables(board: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """Return the variables of these kinds."""
    return [variable for variable in board["templating"]["list"] if variable["type"] in kinds]


def query_of(variable: Mapping[str, Any]) -> str:
    """Return the query of a query variable."""
    return str(variable["query"]["query"])


def promql_of(query: str) -> tuple[str, str | None]:
    """Return the PromQL in the query of a variable and its label (None: whole series)."""
    found = re.fullmatch(
        r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)|query_result\((?P<result>.+)\)", query, re.DOTALL
    )
    assert found is not None, f"no query of a Prometheus variable: {query}"
    return found["selector"] or found["result"], found["label"]


def fill(expression: str, values: Mapping[str, str | list[str]]) -> str:
    """Return an expression with its variables filled in.

    A list becomes a regular expression.

    With the format regex a value becomes a regular expression without quoting, except for All.
    """
    named = {**GLOBALS, **values}

    def value(match: re.Match[str]) -> str:
        found = named[match["name"] or match["braced"]]
        if match["format"] == "regex":
            return (
                found
                if found == ".+"
                else "|".join(_pattern(one) for one in ([found] if isinstance(found, str) else found))
            )
        if isinstance(found, str):
            return found
        return "(" + "|".join(_quoted(_pattern(one)) for one in found) + ")"

    # $1 belongs to label_replace and is not a variable.
    return re.sub(r"\$(?P<name>[a-zA-Z_]\w*)|\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}", value, expression)


def plain(board: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Return values for all variables: All, or a word that is a valid label value."""
    return {
        one["name"]: one.get("allValue") or ("1h" if one["type"] == "custom" else one["name"])
        for one in board["templating"]["list"]
    }


def _pattern(text: str) -> str:
    return re.sub(r"[\\^$*+?.()|\[\]{}]", r"\\\g<0>", text)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
