"""Schemas of configuration files, written after each program's documentation.

They contain the options that this project uses or may use, so that a misspelt one is found.
Sources: the reference pages of Grafana 13 ("Provision Grafana", "Provision the … data source"),
Tempo 3.0 and Loki 3.7 ("Configuration"), and the READMEs of the Collector's components, release
0.159.
"""

from __future__ import annotations

from typing import Any, Final

_BOOL: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string", "minLength": 1}
_COUNT: Final = {"type": "integer", "minimum": 0}
_DURATION: Final = {"type": "string", "pattern": r"^-?([0-9]+(ms|s|m|h|d))+$"}
_ENDPOINT: Final = {"type": "string", "pattern": r"^[a-z0-9.]+:[0-9]+$"}
_URL: Final = {"type": "string", "pattern": r"^http://[a-z0-9.]+:[0-9]+(/[a-z]+)*$"}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_SOURCE: Final = {
    "name": _TEXT,
    "uid": {"type": "string", "pattern": r"^[a-z]+$"},
    "access": {"const": "proxy"},
    "url": _URL,
    "isDefault": _BOOL,
    "editable": {"const": False},
}
_PROMETHEUS: Final = _object(
    "httpMethod",
    "timeInterval",
    "exemplarTraceIdDestinations",
    httpMethod={"enum": ["GET", "POST"]},
    prometheusType={"enum": ["Prometheus", "Mimir", "Cortex", "Thanos"]},
    prometheusVersion=_TEXT,
    timeInterval=_DURATION,
    manageAlerts=_BOOL,
    exemplarTraceIdDestinations=_list(
        _object("name", "datasourceUid", name=_TEXT, datasourceUid=_TEXT, urlDisplayLabel=_TEXT)
    ),
)
_TAGS: Final = _list(_object("key", key=_TEXT, value=_TEXT))
_TEMPO: Final = _object(
    "tracesToLogsV2",
    "tracesToMetrics",
    tracesToLogsV2=_object(
        "datasourceUid",
        datasourceUid=_TEXT,
        spanStartTimeShift=_DURATION,
        spanEndTimeShift=_DURATION,
        tags=_TAGS,
        filterByTraceID=_BOOL,
        filterBySpanID=_BOOL,
        customQuery=_BOOL,
        query=_TEXT,
    ),
    tracesToMetrics=_object(
        "datasourceUid",
        "queries",
        datasourceUid=_TEXT,
        spanStartTimeShift=_DURATION,
        spanEndTimeShift=_DURATION,
        tags=_TAGS,
        queries=_list(_object("name", "query", name=_TEXT, query=_TEXT)),
    ),
    serviceMap=_object(datasourceUid=_TEXT),
    nodeGraph=_object(enabled=_BOOL),
)
_FIELD: Final = _object(
    "name",
    "matcherType",
    "matcherRegex",
    "url",
    "datasourceUid",
    name=_TEXT,
    matcherType={"enum": ["label", "regex"]},
    matcherRegex=_TEXT,
    url=_TEXT,
    urlDisplayLabel=_TEXT,
    datasourceUid=_TEXT,
)
_LOKI: Final = _object("derivedFields", maxLines=_COUNT, derivedFields=_list(_FIELD))
_ALERTMANAGER: Final = _object(
    "implementation",
    implementation={"enum": ["prometheus", "mimir", "cortex"]},
    handleGrafanaManagedAlerts=_BOOL,
)


def _source(kind: str, data: Any) -> dict[str, Any]:
    return _object(
        "name",
        "uid",
        "type",
        "access",
        "url",
        "editable",
        "jsonData",
        **_SOURCE,
        type={"const": kind},
        jsonData=data,
    )


GRAFANA_DATASOURCES: Final = _object(
    "apiVersion",
    "datasources",
    apiVersion={"const": 1},
    prune=_BOOL,
    deleteDatasources=_list(_object("name", name=_TEXT, orgId=_COUNT)),
    datasources=_list(
        {
            "oneOf": [
                _source("prometheus", _PROMETHEUS),
                _source("tempo", _TEMPO),
                _source("loki", _LOKI),
                _source("alertmanager", _ALERTMANAGER),
            ]
        }
    ),
)
GRAFANA_DASHBOARDS: Final = _object(
    "apiVersion",
    "providers",
    apiVersion={"const": 1},
    providers=_list(
        _object(
            "name",
            "type",
            "folder",
            "options",
            name=_TEXT,
            orgId=_COUNT,
            type={"const": "file"},
            folder=_TEXT,
            folderUid=_TEXT,
            disableDeletion=_BOOL,
            allowUiUpdates={"const": False},
            updateIntervalSeconds=_COUNT,
            options=_object("path", path=_TEXT, foldersFromFilesStructure=_BOOL),
        )
    ),
)
_COMPACTION: Final = _object(
    block_retention=_DURATION,
    compacted_block_retention=_DURATION,
    compaction_window=_DURATION,
    max_block_bytes=_COUNT,
)
_PATH: Final = _object("path", path={"type": "string", "pattern": "^/"})
TEMPO: Final = _object(
    "server",
    "distributor",
    "storage",
    stream_over_http_enabled=_BOOL,
    server=_object("http_listen_port", http_listen_port=_COUNT, grpc_listen_port=_COUNT, log_level=_TEXT),
    distributor=_object(
        "receivers",
        receivers=_object(
            "otlp", otlp=_object("protocols", protocols=_object(grpc=_object("endpoint", endpoint=_ENDPOINT)))
        ),
    ),
    storage=_object(
        "trace", trace=_object("backend", "local", "wal", backend={"const": "local"}, local=_PATH, wal=_PATH)
    ),
    backend_scheduler=_object(
        provider=_object(
            retention=_object(interval=_DURATION),
            compaction=_object(measure_interval=_DURATION, compaction=_COMPACTION),
        ),
        local_work_path=_TEXT,
    ),
    backend_worker=_object(compaction=_COMPACTION, backend_scheduler_addr=_TEXT),
    usage_report=_object(reporting_enabled=_BOOL),
)
"""Without ``ingester`` and ``compactor``, which Tempo 3 refuses."""
LOKI: Final = _object(
    "auth_enabled",
    "server",
    "common",
    "schema_config",
    auth_enabled={"const": False},
    server=_object("http_listen_port", http_listen_port=_COUNT, grpc_listen_port=_COUNT, log_level=_TEXT),
    common=_object(
        path_prefix=_TEXT,
        replication_factor={"const": 1},
        instance_addr=_TEXT,
        storage=_object(filesystem=_object(chunks_directory=_TEXT, rules_directory=_TEXT)),
        ring=_object(kvstore=_object(store={"const": "inmemory"})),
    ),
    schema_config=_object(
        configs=_list(
            _object(
                **{"from": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}},
                store={"const": "tsdb"},
                object_store={"const": "filesystem"},
                schema={"const": "v13"},
                index=_object("prefix", "period", prefix=_TEXT, period={"const": "24h"}),
            )
        )
    ),
    limits_config=_object(
        allow_structured_metadata={"const": True},
        retention_period=_DURATION,
        volume_enabled=_BOOL,
        otlp_config=_object(
            resource_attributes=_object(
                ignore_defaults=_BOOL,
                attributes_config=_list(
                    _object(
                        "action",
                        action={"enum": ["index_label", "structured_metadata", "drop"]},
                        attributes=_list(_TEXT),
                        regex=_TEXT,
                    )
                ),
            )
        ),
    ),
    compactor=_object(working_directory=_TEXT, retention_enabled=_BOOL, delete_request_store=_TEXT),
    analytics=_object(reporting_enabled=_BOOL),
)
COLLECTOR: Final = {
    "receivers": {
        "otlp": _object(protocols=_object(grpc=_object(endpoint=_ENDPOINT), http=_object(endpoint=_ENDPOINT)))
    },
    "processors": {
        "memory_limiter": _object(
            "check_interval", "limit_mib", check_interval=_DURATION, limit_mib=_COUNT, spike_limit_mib=_COUNT
        ),
        "batch": _object(timeout=_DURATION, send_batch_size=_COUNT, send_batch_max_size=_COUNT),
    },
    "exporters": {
        "otlp_grpc": _object("endpoint", endpoint=_ENDPOINT, tls=_object(insecure=_BOOL), compression=_TEXT),
        "otlp_http": _object("endpoint", endpoint=_URL, compression=_TEXT),
        "prometheus": _object(
            "endpoint",
            endpoint=_ENDPOINT,
            translation_strategy={
                "enum": [
                    "UnderscoreEscapingWithSuffixes",
                    "UnderscoreEscapingWithoutSuffixes",
                    "NoUTF8EscapingWithSuffixes",
                    "NoTranslation",
                ]
            },
            without_scope_info=_BOOL,
            enable_open_metrics=_BOOL,
            metric_expiration=_DURATION,
            send_timestamps=_BOOL,
        ),
    },
    "extensions": {"health_check": _object("endpoint", endpoint=_ENDPOINT, path=_TEXT)},
}
"""The components of the contrib distribution that may be used here, by kind and type, with their
options. All are in distributions/otelcol-contrib/manifest.yaml of its release. The exporters were
named ``otlp`` and ``otlphttp`` before 0.144; these names are deprecated aliases now.
``add_metric_suffixes`` and ``resource_to_telemetry_conversion`` are deprecated too and therefore
omitted.
"""
