"""Selectors and result labels of a PromQL expression, from its syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import promql_parser

from otel_progress import semconv

TARGET: Final = {"job", "instance"}
"""Labels that Prometheus adds to every scraped series."""
_SUFFIXES: Final = ("_bucket", "_sum", "_count")
_OWN: Final = {
    semconv_name: set(metric.labels)
    for metric in semconv.METRICS
    for semconv_name in (
        [metric.prometheus]
        if metric.kind != "histogram"
        else [metric.prometheus + suffix for suffix in _SUFFIXES]
    )
}
FOREIGN: Final = {
    "ALERTS": (
        {"alertname", "alertstate", "severity", "operation_id", "operation_type"},
        "alerts are a series of Prometheus' own",
    ),
    "scrape_duration_seconds": (set[str](), "how long a scrape took only Prometheus knows"),
    "scrape_samples_scraped": (set[str](), "how much a scrape brought only Prometheus knows"),
}
"""Metrics outside of the conventions, their labels, and why dashboards use them."""
_CHOOSES: Final = ("topk", "bottomk", "limitk")


def known_labels(name: str) -> set[str]:
    """Return the labels of a metric. Raises AssertionError for an unknown metric."""
    if name in FOREIGN:
        return FOREIGN[name][0] | (set() if name == "ALERTS" else TARGET)
    assert name in _OWN, f"{name} is not a metric of semconv"
    return _OWN[name] | TARGET | ({"le"} if name.endswith("_bucket") else set())


def nodes(tree: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield all nodes of a tree, each with its ancestors, the outermost first."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(tree, ())]
    while waiting:
        node, above = waiting.pop()
        yield node, above
        below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
        arguments = getattr(node, "args", None) or ()
        waiting += [
            (one, (*above, node)) for one in (*below, *arguments) if isinstance(one, promql_parser.Expr)
        ]


def selectors(tree: Any) -> list[Any]:
    """Return all vector selectors of a tree."""
    return [node for node, _ in nodes(tree) if isinstance(node, promql_parser.VectorSelector)]


def metrics(tree: Any) -> set[str]:
    """Return the names of all metrics in a tree."""
    return {selector.name for selector in selectors(tree)}


def labels(node: Any) -> set[str]:
    """Return the labels that the series of an expression can have.

    Raises AssertionError where an impossible label is used.
    """
    kind = type(node)
    if kind is promql_parser.VectorSelector:
        known = known_labels(node.name)
        asked = {matcher.name for matcher in node.matchers.matchers}
        assert asked <= known, f"{node.name} has no label {sorted(asked - known)}"
        return known
    if kind is promql_parser.AggregateExpr:
        return _aggregated(node)
    if kind is promql_parser.BinaryExpr:
        return _combined(node)
    if kind is promql_parser.Call:
        return _called(node)
    if kind in (promql_parser.NumberLiteral, promql_parser.StringLiteral):
        return set()
    inner = node.vector_selector if kind is promql_parser.MatrixSelector else node.expr
    return labels(inner)


def _aggregated(node: Any) -> set[str]:
    inner = labels(node.expr)
    kept = set(node.modifier.labels) if node.modifier is not None else set()
    assert kept <= inner, f"by ({sorted(kept - inner)}) of series that have {sorted(inner)}"
    if str(node.op) == "count_values":
        return kept | {node.param.val}
    return inner if str(node.op) in _CHOOSES else kept


def _combined(node: Any) -> set[str]:
    left, right = labels(node.lhs), labels(node.rhs)
    matching = node.modifier.matching if node.modifier is not None else None
    if matching is not None:
        on = set(matching.labels)
        assert on <= left & right, f"on ({sorted(on)}) of {sorted(left)} and {sorted(right)}"
    if str(node.op) == "or":
        return left | right
    return left or right


def _called(node: Any) -> set[str]:
    arguments = list(node.args)
    inner = set().union(*(labels(one) for one in arguments)) if arguments else set()
    if node.func.name == "label_replace":
        _, made, _, taken, _ = arguments
        assert not taken.val or taken.val in inner, (
            f"label_replace takes {taken.val!r} of series that have {sorted(inner)}"
        )
        return inner | {made.val}
    if node.func.name == "histogram_quantile":
        assert "le" in inner, "a quantile needs the label le"
        return inner - {"le"}
    return inner
