"""Labels of the result of a PromQL expression.

They are derived from its syntax tree. An unknown name fails the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import promql_parser as promql

from otel_progress.semconv import METRICS, Metric

TARGET: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series it scrapes."""
FROM_PROMETHEUS: Final[Mapping[str, frozenset[str]]] = {"up": TARGET}
_SUFFIXES: Final = {"gauge": ("",), "counter": ("",), "histogram": ("_bucket", "_count", "_sum")}


def exposed() -> dict[str, frozenset[str]]:
    """Return the labels of every series the exporter can show, by name."""
    return {
        metric.prometheus + suffix: _labels(metric, suffix)
        for metric in METRICS
        for suffix in _SUFFIXES[metric.kind]
    }


def _labels(metric: Metric, suffix: str) -> frozenset[str]:
    bucket = {"le"} if suffix == "_bucket" else set()
    return frozenset(metric.labels) | TARGET | bucket


def labels_of(expression: str, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the labels that the result can have.

    Fails for a name or label that is not in ``known``.
    """
    return _Walk(known).labels(promql.parse(expression))


def names_in(expression: str) -> set[str]:
    """Return the names of all series in an expression."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        selector = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(selector, promql.VectorSelector):
            found.add(selector.name)
        return True

    promql.walk(promql.parse(expression), visit)
    return found


class _Walk:
    def __init__(self, known: Mapping[str, frozenset[str]]) -> None:
        self._known = known

    def labels(self, node: Any) -> frozenset[str]:
        match node:
            case promql.VectorSelector():
                return self._selector(node)
            case promql.MatrixSelector():
                return self._selector(node.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self.labels(node.expr)
            case promql.AggregateExpr():
                return self._aggregate(node)
            case promql.BinaryExpr():
                return self._binary(node)
            case promql.Call():
                return frozenset().union(*(self.labels(argument) for argument in node.args))
            case promql.NumberLiteral() | promql.StringLiteral():
                return frozenset()
        msg = f"no rule for {type(node).__name__}"
        raise AssertionError(msg)

    def _selector(self, node: Any) -> frozenset[str]:
        assert node.name in self._known, f"no such metric or recording rule: {node.name}"
        labels = self._known[node.name]
        _check((matcher.name for matcher in node.matchers.matchers), labels, f"{node.name} is asked for")
        return labels

    def _aggregate(self, node: Any) -> frozenset[str]:
        inner = self.labels(node.expr)
        if node.modifier is None:
            return frozenset()
        named = node.modifier.labels
        _check(named, inner, f"{node.op} aggregates")
        return frozenset(named) if node.modifier.type == promql.AggModifierType.By else inner - set(named)

    def _binary(self, node: Any) -> frozenset[str]:
        left, right = self.labels(node.lhs), self.labels(node.rhs)
        matching = node.modifier.matching if node.modifier else None
        if matching is not None:
            _check(matching.labels, left, f"the left side of {node.op} is matched by")
            _check(matching.labels, right, f"the right side of {node.op} is matched by")
        operator = str(node.op)
        if operator == "or":
            return left | right
        if operator in ("and", "unless") or not right:
            return left
        return left or right


def _check(labels: Iterable[str], known: frozenset[str], what: str) -> None:
    unknown = set(labels) - known
    assert not unknown, f"{what} {sorted(unknown)}, but has only {sorted(known)}"
