"""Tables: instant queries joined by labels, with order, name, width and unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, table
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus

from grafana import states
from grafana.panels import COUNT, PLAIN, RATIO, About, Query, as_properties, dress, steps
from grafana.states import BLUE, GREY, RED, TEXT

ABOVE_ZERO: Final = 1e-9
"""Threshold of values above 0, for counts and for ratios."""
_HIDDEN: Final = {"Time": True, "__name__": True, "job": True, "instance": True}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: heading, label or query of its values, and display."""

    heading: str
    label: str | None = None
    query: str | None = None
    unit: str = PLAIN
    width: int | None = None
    looks: dict[str, object] = field(default_factory=dict)
    shown: bool = True
    least: int | None = None
    """Minimum width of the column. A narrow screen scrolls the table instead."""


def text(heading: str, label: str, width: int | None = None, **looks: object) -> Column:
    """Return a column with the texts of a label."""
    return Column(heading, label=label, width=width, looks=looks, least=None if width else 150)


def values(heading: str, query: str, unit: str = COUNT, width: int | None = None, **looks: object) -> Column:
    """Return a column with the numbers of a query, aligned to the right."""
    return Column(heading, query=query, unit=unit, width=width, looks={"custom_align": "right", **looks})


def failures(
    heading: str, query: str, unit: str = COUNT, width: int | None = None, **looks: object
) -> Column:
    """Return a column with numbers of failures, red above 0."""
    colours = steps((None, GREY), (0, TEXT), (ABOVE_ZERO, RED)).build()
    return values(
        heading, query, unit, width, custom_cellOptions={"type": "color-text"}, thresholds=colours, **looks
    )


def bar(heading: str, query: str, width: int | None = None) -> Column:
    """Return a column of bars from 0 to 1, with unknown and no bar for missing values."""
    looks: dict[str, object] = {
        "min": 0,
        "max": 1,
        "decimals": 0,
        "custom_cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
        "color": {"mode": "fixed", "fixedColor": BLUE},
    }
    return Column(heading, query=query, unit=RATIO, width=width, looks=looks, least=None if width else 150)


def state(heading: str, query: str, width: int = 120) -> Column:
    """Return a column of states with colour and word."""
    looks: dict[str, object] = {
        "custom_cellOptions": {"type": "color-background", "mode": "basic", "applyToRow": False},
        "mappings": states.mapping(),
        "custom_align": "center",
    }
    return Column(heading, query=query, width=width, looks=looks)


def word(heading: str, query: str, mappings: list[model.ValueMapping], width: int) -> Column:
    """Return a column of coloured words for numbers."""
    looks: dict[str, object] = {"custom_cellOptions": {"type": "color-text"}, "mappings": mappings}
    return Column(heading, query=query, width=width, looks=looks)


def hidden(heading: str, query: str) -> Column:
    """Return a hidden column.

    Its query determines the rows, or has labels for other columns.
    """
    return Column(heading, query=query, shown=False)


def grid(about: About, columns: Sequence[Column], *, sort: str, descending: bool = True) -> table.Panel:
    """Return a table with one row per set of labels that its queries share."""
    asked = [column for column in columns if column.query is not None]
    queries = [
        Query(column.query or "", instant=True, format=prometheus.PromQueryFormat.TABLE) for column in asked
    ]
    panel: Any = dress(table.Panel(), About(about.title, about.description, about.unit, about.empty), queries)
    only = len(asked) == 1
    names = {
        column.heading: column.label or ("Value" if only else f"Value #{chr(ord('A') + asked.index(column))}")
        for column in columns
    }
    order = {name: place for place, name in enumerate(names.values())}
    renames = {names[column.heading]: column.heading for column in columns if column.shown}
    excluded = {**_HIDDEN, **{names[column.heading]: True for column in columns if not column.shown}}
    organised = {
        "excludeByName": excluded,
        "indexByName": order,
        "renameByName": renames,
        "includeByName": {},
    }
    if not only:
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=organised))
    for column in (one for one in columns if one.shown):
        # The panel's own message would be in every empty cell.
        looks = {
            "unit": column.unit,
            "custom_width": column.width,
            "custom_minWidth": column.least,
            "noValue": states.UNKNOWN,
            **column.looks,
        }
        panel = panel.override_by_name(column.heading, as_properties(looks))
    panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    panel = (
        panel.cell_height(kinds.TableCellHeight.SM)
        .show_header(True)
        .align(kinds.FieldTextAlignment.AUTO)
        .min_width(60)
    )
    return panel.thresholds(steps((None, GREY))).color_scheme(
        dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)
    )  # type: ignore[no-any-return]
