"""What one file of the stack says of another: addresses, ports, mounted paths, uids, secrets and versions agree."""

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


def test_the_ports_of_the_table_are_those_of_the_configurations() -> None:
    """LISTENS, which the other tests trust, is what the configurations say."""
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


def test_prometheus_scrapes_what_is_there() -> None:
    """Every target is a service on a port that it listens on; server, worker and what was pushed are among them."""
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


def test_prometheus_has_the_token_the_server_asks_for() -> None:
    """The file Prometheus reads and the file the server reads are the one that the first start makes."""
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


def test_the_server_answers_to_the_name_prometheus_uses() -> None:
    """Requests under a name that was not allowed are refused, so the service's name is."""
    command = services()["server"]["command"]
    assert command[command.index("--allow-host") + 1] == address(targets(JOBS["otel-progress-server"])[0])[0]


def test_rules_are_where_prometheus_looks() -> None:
    """The patterns of rule_files match the files of this repository at the place where they are mounted."""
    found = set()
    for pattern in PROMETHEUS["rule_files"]:
        folder = host_path(services()["prometheus"], f"/etc/prometheus/{pattern.rpartition('/')[0]}")
        assert folder is not None
        found |= {path.name for path in folder.glob(pattern.rpartition("/")[2])}
    assert found == {path.name for path in (DEPLOY / "prometheus" / "rules").iterdir()}


def test_alerts_go_to_the_alertmanager() -> None:
    """Prometheus sends alerts to the service, and Alertmanager reads the file that is mounted."""
    for group in PROMETHEUS["alerting"]["alertmanagers"]:
        for target in targets(group):
            assert target == "alertmanager:9093"
            assert_reachable(target)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "tempo", "loki", "collector"])
def test_the_configuration_named_is_the_one_mounted(name: str) -> None:
    """The file a program is told to read is one of the project's, at that path."""
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
def test_what_is_written_lies_on_a_volume(name: str, path: str) -> None:
    """The roots are read-only, so each program's data have a volume that outlives the container."""
    writable = [
        target for source, target, ro in mounts(services()[name]) if not ro and not source.startswith(".")
    ]
    assert any(path == target or path.startswith(f"{target}/") for target in writable)


def test_the_collector_sends_to_tempo_and_loki() -> None:
    """Its exporters' endpoints are services on ports that take what is sent: OTLP over gRPC, and Loki's path for OTLP."""
    exporters = COLLECTOR["exporters"]
    assert exporters["otlp_grpc/tempo"]["endpoint"] == "tempo:4317"
    assert exporters["otlp_http/loki"]["endpoint"] == "http://loki:3100/otlp"
    assert_reachable(exporters["otlp_grpc/tempo"]["endpoint"])
    assert_reachable(exporters["otlp_http/loki"]["endpoint"])


@pytest.mark.parametrize("name", ["worker", "job"])
def test_work_sends_to_the_collector(name: str) -> None:
    """Spans and logs of the demo work go to the Collector's OTLP port, by the protocol that is spoken there."""
    environment = services()[name]["environment"]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4317"
    assert environment["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc"
    assert_reachable(environment["OTEL_EXPORTER_OTLP_ENDPOINT"])


def test_every_metric_comes_one_way() -> None:
    """The worker is scraped and pushes no metrics, the job pushes and is not scraped: nothing is counted twice."""
    worker, job = services()["worker"]["environment"], services()["job"]["environment"]
    assert (worker["OTEL_METRICS_EXPORTER"], worker["OTEL_PROGRESS_PROMETHEUS_PORT"]) == ("none", "9464")
    assert (job["OTEL_METRICS_EXPORTER"], job["OTEL_PROGRESS_PROMETHEUS_PORT"]) == ("otlp", "")


def test_the_collector_ends_before_its_container() -> None:
    """The limiter refuses before the container's memory is used up, with room for what is under way."""
    limit = int(services()["collector"]["mem_limit"].removesuffix("m"))
    assert COLLECTOR["processors"]["memory_limiter"]["limit_mib"] <= 0.8 * limit


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source["uid"])
def test_datasources_are_services(source: dict[str, Any]) -> None:
    """The URL of each datasource is the service of that name on its port, and the uid is the name that links use."""
    assert source["uid"] == source["type"] == address(source["url"])[0]
    assert_reachable(source["url"])


def test_signals_lead_to_each_other() -> None:
    """Exemplars and logs lead to traces, traces to logs and metrics; every uid is one that is provisioned."""
    by_uid = {source["uid"]: source["jsonData"] for source in SOURCES}
    assert set(by_uid) == {"prometheus", "tempo", "loki", "alertmanager"}
    assert [one["datasourceUid"] for one in by_uid["prometheus"]["exemplarTraceIdDestinations"]] == ["tempo"]
    assert by_uid["tempo"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert by_uid["tempo"]["tracesToMetrics"]["datasourceUid"] == "prometheus"
    assert [field["datasourceUid"] for field in by_uid["loki"]["derivedFields"]] == ["tempo"]
    assert [source["uid"] for source in SOURCES if source.get("isDefault")] == ["prometheus"]


def test_links_use_names_that_exist() -> None:
    """The metrics, labels and attributes in the links between signals are those of semconv, and a $ is written twice."""
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


def test_prometheus_asks_as_often_as_grafana_thinks() -> None:
    """The datasource's interval is that of the scrapes: $__rate_interval is made of it."""
    (prometheus,) = [source for source in SOURCES if source["uid"] == "prometheus"]
    assert prometheus["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_exemplars_are_kept_from_exporter_to_link() -> None:
    """Prometheus stores exemplars, and the link reads the label that the exporters write."""
    assert "--enable-feature=exemplar-storage" in services()["prometheus"]["command"]
    (prometheus,) = [source for source in SOURCES if source["uid"] == "prometheus"]
    assert [one["name"] for one in prometheus["jsonData"]["exemplarTraceIdDestinations"]] == ["trace_id"]


def test_dashboards_are_mounted_where_grafana_looks() -> None:
    """The provider reads the committed dashboards into the folder Progress, and the home page is one of them."""
    folder = host_path(services()["grafana"], PROVIDER["options"]["path"])
    assert folder == PROJECT / "grafana" / "dashboards"
    assert PROVIDER["folder"] == "Progress"
    home = host_path(
        services()["grafana"],
        services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"],
    )
    assert home is not None
    assert home.is_file()


def test_dashboards_find_their_datasources() -> None:
    """Every type of datasource that a variable of a dashboard asks for is provisioned."""
    types = {source["type"] for source in SOURCES}
    for path in sorted((PROJECT / "grafana" / "dashboards").glob("*.json")):
        variables = json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]
        asked = {variable["query"] for variable in variables if variable["type"] == "datasource"}
        assert asked, path.name
        assert asked <= types, path.name


def test_links_in_alerts_lead_to_this_grafana() -> None:
    """The address of Grafana that alerts begin their links with is the one it is reached under."""
    url = PROMETHEUS["global"]["external_labels"]["grafana_url"]
    assert services()["grafana"]["environment"]["GF_SERVER_ROOT_URL"].rstrip("/") == url
    assert address(url)[1] in LISTENS["grafana"]


@pytest.mark.parametrize("name", ["server", "worker", "job"])
def test_previews_are_linked_to_the_server(name: str) -> None:
    """The base address of previews is the one under which the page is reached from this machine."""
    assert services()[name]["environment"]["OTEL_PROGRESS_PUBLIC_URL"] == "http://127.0.0.1:7764"
    assert "127.0.0.1:7764:7764" in services()["server"]["ports"]
