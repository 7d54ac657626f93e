"""JSON schemas of Grafana's panels, derived from the types of the foundation SDK.

The SDK's repository has such schemas, but its package has not. Both are generated from the same
definitions, so the fields of the classes (types, enumerations, optional fields) give the same
schema. Other keys are refused.
"""

from __future__ import annotations

import enum
import types
import typing
from typing import Any, Final, get_args, get_origin, get_type_hints

import grafana  # noqa: F401 - before the SDK, whose warnings it answers
from grafana_foundation_sdk.models import (
    bargauge,
    dashboard,
    gauge,
    heatmap,
    logs,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)

MODULES: Final = {
    "bargauge": bargauge,
    "gauge": gauge,
    "heatmap": heatmap,
    "logs": logs,
    "stat": stat,
    "state-timeline": statetimeline,
    "table": table,
    "text": text,
    "timeseries": timeseries,
}
"""The models of each kind of panel."""
_PLAIN: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def schema(kind: type, **replaced: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a class of the SDK.

    ``replaced`` are schemas for some of its keys.
    """
    definitions: dict[str, Any] = {}
    root = _object(kind, definitions)
    root["properties"].update(replaced)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def of_panel(kind: str) -> dict[str, Any]:
    """Return the schema of a panel with the options and field settings of its kind."""
    module = MODULES[kind]
    whole = schema(dashboard.Panel)
    options = schema(module.Options)
    whole["$defs"] |= options.pop("$defs")
    whole["properties"]["options"] = options
    if hasattr(module, "FieldConfig"):
        custom = schema(module.FieldConfig)
        whole["$defs"] |= custom.pop("$defs")
        whole["$defs"]["dashboard.FieldConfig"]["properties"]["custom"] = custom
    # Each is checked by its own kind, see of_query.
    whole["properties"]["targets"] = {"type": "array"}
    return whole


def of_query() -> dict[str, Any]:
    """Return the schema of a query to Prometheus."""
    return schema(prometheus.Dataquery)


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind, vars(__import__(kind.__module__, fromlist=["*"])))
    properties = {key: _type(hints[attribute], definitions) for key, attribute in _keys(kind).items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _keys(kind: type) -> dict[str, str]:
    """Return the JSON key of each attribute, found with a marker value."""
    made = kind()
    markers = {name: object() for name in vars(made)}
    for name, marker in markers.items():
        setattr(made, name, marker)
    by_marker = {id(marker): name for name, marker in markers.items()}
    return {key: by_marker[id(value)] for key, value in made.to_json().items()}


def _type(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (object, Any) or isinstance(hint, typing.TypeVar):
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(one, definitions) for one in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], definitions)}
    return _class(hint, definitions)


def _class(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return {"enum": [one.value for one in kind]}
    if not hasattr(kind, "from_json"):  # an interface with several implementations
        return {"type": "object"}
    name = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    if name not in definitions:
        definitions[name] = {}  # for a recursive type
        definitions[name] = _object(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}
