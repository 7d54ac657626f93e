"""References between files of the stack: addresses, ports, paths, secrets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from otel_progress import semconv
from tests.support.stack.files import (
    DEPLOY,
    LISTENS,
    PROJECT,
    address,
    assert_reachable,
    host_path,
    load,
    mounts,
    provisioned,
    services,
)

pytestmark = pytest.mark.stack

PROMETHEUS: dict[str, Any] = load(DEPLOY / "prometheus" / "prometheus.yml")
SOURCES = provisioned()
PROVIDER: dict[str, Any] = load(DEPLOY / "grafana" / "provisioning" / "dashboards" / "progress.yaml")[
    "providers"
][0]
COLLECTOR: dict[str, Any] = load(DEPLOY / "collector" / "config.yaml")
TEMPO: dict[str, Any] = load(DEPLOY / "tempo" / "tempo.yaml")
LOKI: dict[str, Any] = load(DEPLOY / "loki" / "loki.yaml")
JOBS: dict[str, dict[str, Any]] = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}


def targets(job: dict[str, Any]) -> list[str]:
    """Return the targets of a scrape job."""
    return [target for static in job["static_configs"] for target in static["targets"]]


def test_port_table_matches_the_configurations() -> None:
    """The other tests use the table LISTENS."""
    protocols = COLLECTOR["receivers"]["otlp"]["protocols"]
    own = [
        protocols["grpc"],
        protocols["http"],
        COLLECTOR["exporters"]["prometheus"],
        COLLECTOR["extensions"]["health_check"],
    ]
    assert {address(one["endpoint"])[1] for one in own} == LISTENS["collector"]
    receiver = TEMPO["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert {TEMPO["server"]["http_listen_port"], address(receiver)[1]} == LISTENS["tempo"]
    assert {LOKI["server"]["http_listen_port"]} == LISTENS["loki"]
    assert {int(services()["worker"]["environment"]["OTEL_PROGRESS_PROMETHEUS_PORT"])} == LISTENS["worker"]
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert {int(port) for port in re.findall(r"^EXPOSE ([0-9]+)$", dockerfile, re.MULTILINE)} == {
        *LISTENS["server"],
        *LISTENS["worker"],
    }


def test_scrape_targets_are_services_and_ports() -> None:
    """Server, worker and pushed metrics are among the targets."""
    for job in JOBS.values():
        for target in targets(job):
            if not target.startswith("127.0.0.1:"):
                assert_reachable(target)
    assert targets(JOBS["otel-progress-server"]) == ["server:7764"]
    assert targets(JOBS["otel-progress-worker"]) == ["worker:9464"]
    assert targets(JOBS["otel-progress-pushed"]) == [
        f"collector:{address(COLLECTOR['exporters']['prometheus']['endpoint'])[1]}"
    ]
    assert JOBS["otel-progress-pushed"]["honor_labels"] is True


def test_token_files_of_prometheus_and_server_are_equal() -> None:
    """The first start creates the file."""
    path = f"/etc/prometheus/{JOBS['otel-progress-server']['authorization']['credentials_file']}"
    folder = {target: source for source, target, _ in mounts(services()["prometheus"])}
    assert folder[path.rpartition("/")[0]] == "secrets"
    command = services()["server"]["command"]
    asked = command[command.index("--token-file") + 1]
    assert services()["prepare"]["command"] == [asked]
    assert asked.rpartition("/")[2] == path.rpartition("/")[2]
    for name in ("server", "prepare"):
        assert ("secrets", asked.rpartition("/")[0]) in {
            (source, target) for source, target, _ in mounts(services()[name])
        }


def test_server_allows_the_host_name_of_prometheus() -> None:
    """The server rejects other host names."""
    command = services()["server"]["command"]
    assert command[command.index("--allow-host") + 1] == address(targets(JOBS["otel-progress-server"])[0])[0]


def test_rule_file_patterns_match_the_mounted_rules() -> None:
    """The patterns of rule_files match the files at their mount point."""
    found = set()
    for pattern in PROMETHEUS["rule_files"]:
        folder = host_path(services()["prometheus"], f"/etc/prometheus/{pattern.rpartition('/')[0]}")
        assert folder is not None
        found |= {path.name for path in folder.glob(pattern.rpartition("/")[2])}
    assert found == {path.name for path in (DEPLOY / "prometheus" / "rules").iterdir()}


def test_alerts_are_sent_to_the_alertmanager() -> None:
    """Alertmanager reads the mounted file."""
    for group in PROMETHEUS["alerting"]["alertmanagers"]:
        for target in targets(group):
            assert target == "alertmanager:9093"
            assert_reachable(target)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "tempo", "loki", "collector"])
def test_configuration_arguments_name_mounted_files(name: str) -> None:
    """The path in the arguments of a program is that of a mounted file."""
    (path,) = [
        match[1]
        for word in services()[name]["command"]
        if (match := re.fullmatch(r"-{1,2}config(?:\.file)?=(.+)", word))
    ]
    found = host_path(services()[name], path)
    assert found is not None
    assert found.is_file()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tempo", TEMPO["storage"]["trace"]["local"]["path"]),
        ("tempo", TEMPO["storage"]["trace"]["wal"]["path"]),
        ("loki", LOKI["common"]["path_prefix"]),
        ("loki", LOKI["compactor"]["working_directory"]),
        ("prometheus", "/prometheus"),
        ("alertmanager", "/alertmanager"),
        ("grafana", "/var/lib/grafana"),
    ],
)
def test_data_folders_are_on_volumes(name: str, path: str) -> None:
    """The roots are read-only, and data has to outlive the container."""
    writable = [
        target for source, target, ro in mounts(services()[name]) if not ro and not source.startswith(".")
    ]
    assert any(path == target or path.startswith(f"{target}/") for target in writable)


def test_collector_exports_to_tempo_and_loki() -> None:
    """Endpoints are services with the right port and path."""
    exporters = COLLECTOR["exporters"]
    assert exporters["otlp_grpc/tempo"]["endpoint"] == "tempo:4317"
    assert exporters["otlp_http/loki"]["endpoint"] == "http://loki:3100/otlp"
    assert_reachable(exporters["otlp_grpc/tempo"]["endpoint"])
    assert_reachable(exporters["otlp_http/loki"]["endpoint"])


@pytest.mark.parametrize("name", ["worker", "job"])
def test_demo_work_exports_to_the_collector(name: str) -> None:
    """The port matches the protocol."""
    environment = services()[name]["environment"]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4317"
    assert environment["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc"
    assert_reachable(environment["OTEL_EXPORTER_OTLP_ENDPOINT"])


def test_metrics_have_one_source_per_service() -> None:
    """The worker is scraped, the job pushes, and nothing is counted twice."""
    worker, job = services()["worker"]["environment"], services()["job"]["environment"]
    assert (worker["OTEL_METRICS_EXPORTER"], worker["OTEL_PROGRESS_PROMETHEUS_PORT"]) == ("none", "9464")
    assert (job["OTEL_METRICS_EXPORTER"], job["OTEL_PROGRESS_PROMETHEUS_PORT"]) == ("otlp", "")


def test_collector_memory_limit_is_below_its_container() -> None:
    """The limiter needs space for running requests."""
    limit = int(services()["collector"]["mem_limit"].removesuffix("m"))
    assert COLLECTOR["processors"]["memory_limiter"]["limit_mib"] <= 0.8 * limit


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source["uid"])
def test_datasources_have_urls_of_services(source: dict[str, Any]) -> None:
    """The uid is the name that links use."""
    assert source["uid"] == source["type"] == address(source["url"])[0]
    assert_reachable(source["url"])


def test_links_between_signals_use_provisioned_datasources() -> None:
    """Exemplars, logs and traces link to each other."""
    by_uid = {source["uid"]: source["jsonData"] for source in SOURCES}
    assert set(by_uid) == {"prometheus", "tempo", "loki", "alertmanager"}
    assert [one["datasourceUid"] for one in by_uid["prometheus"]["exemplarTraceIdDestinations"]] == ["tempo"]
    assert by_uid["tempo"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert by_uid["tempo"]["tracesToMetrics"]["datasourceUid"] == "prometheus"
    assert [field["datasourceUid"] for field in by_uid["loki"]["derivedFields"]] == ["tempo"]
    assert [source["uid"] for source in SOURCES if source.get("isDefault")] == ["prometheus"]


def test_links_between_signals_use_existing_names() -> None:
    """Metrics, labels and attributes are those of semconv, and each $ is doubled."""
    text = (DEPLOY / "grafana" / "provisioning" / "datasources" / "stack.yaml").read_text(encoding="utf-8")
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    names = {metric.prometheus for metric in semconv.METRICS}
    used = set(re.findall(r"progress_[a-z_]+?(?=_bucket|[^a-z_])", code))
    assert used
    assert used <= names | {"progress_operation_duration_seconds"}
    attributes = set(re.findall(r'tags\["([a-z._]+)"\]', code))
    assert attributes == {semconv.SERVICE_NAME, semconv.OPERATION_ID, semconv.OPERATION_TYPE}
    assert re.findall(r"(?<!\$)\$(?!\$)", code) == []
    assert re.findall(r"(?<!\$)\$\$\{", code)


def test_datasource_interval_equals_the_scrape_interval() -> None:
    """Grafana computes $__rate_interval from it."""
    (prometheus,) = [source for source in SOURCES if source["uid"] == "prometheus"]
    assert prometheus["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_exemplars_are_stored_and_linked() -> None:
    """The link reads the label that the exporters write."""
    assert "--enable-feature=exemplar-storage" in services()["prometheus"]["command"]
    (prometheus,) = [source for source in SOURCES if source["uid"] == "prometheus"]
    assert [one["name"] for one in prometheus["jsonData"]["exemplarTraceIdDestinations"]] == ["trace_id"]


def test_dashboards_are_mounted_for_the_provider() -> None:
    """The home page is one of them."""
    folder = host_path(services()["grafana"], PROVIDER["options"]["path"])
    assert folder == PROJECT / "grafana" / "dashboards"
    assert PROVIDER["folder"] == "Progress"
    home = host_path(
        services()["grafana"],
        services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"],
    )
    assert home is not None
    assert home.is_file()


def test_dashboard_datasource_types_are_provisioned() -> None:
    """Every datasource type of a dashboard variable is provisioned."""
    types = {source["type"] for source in SOURCES}
    for path in sorted((PROJECT / "grafana" / "dashboards").glob("*.json")):
        variables = json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]
        asked = {variable["query"] for variable in variables if variable["type"] == "datasource"}
        assert asked, path.name
        assert asked <= types, path.name


def test_alert_links_use_the_address_of_grafana() -> None:
    """The external label has the address at which Grafana is reachable."""
    url = PROMETHEUS["global"]["external_labels"]["grafana_url"]
    assert services()["grafana"]["environment"]["GF_SERVER_ROOT_URL"].rstrip("/") == url
    assert address(url)[1] in LISTENS["grafana"]


@pytest.mark.parametrize("name", ["server", "worker", "job"])
def test_preview_links_use_the_address_of_the_server(name: str) -> None:
    """The address is reachable from the browser on this machine."""
    assert services()[name]["environment"]["OTEL_PROGRESS_PUBLIC_URL"] == "http://127.0.0.1:7764"
    assert "127.0.0.1:7764:7764" in services()["server"]["ports"]
