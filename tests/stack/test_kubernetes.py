"""deploy/kubernetes: valid manifests, consistent names, generated files."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from otel_progress.journal.redis.address import parse_address
from tests.support.stack.files import DEPLOY, GUIDE, PROJECT, load, services

pytestmark = pytest.mark.stack

FOLDER = DEPLOY / "kubernetes"
KUBERNETES = "1.37.0"
"""The release of the schemas. The fields have not changed since 1.25."""
DOCUMENTS = {path.relative_to(FOLDER).as_posix(): load(path) for path in sorted(FOLDER.rglob("*.yaml"))}
CUSTOM = {
    kind: json.loads(
        (Path(__file__).parent / "operator" / f"{kind.lower()}.json").read_text(encoding="utf-8")
    )
    for kind in ("PrometheusRule", "ServiceMonitor")
}
"""Schemas of the Prometheus Operator. Each names its source."""


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Return the documents of a kind."""
    return [document for document in DOCUMENTS.values() if document["kind"] == kind]


@pytest.mark.parametrize(
    "name", [name for name, one in DOCUMENTS.items() if one["kind"] not in {*CUSTOM, "Kustomization"}]
)
def test_core_documents_match_the_kubernetes_schemas(name: str) -> None:
    """Unknown fields are rejected."""
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", [name for name, one in DOCUMENTS.items() if one["kind"] in CUSTOM])
def test_custom_documents_match_the_operator_schemas(name: str) -> None:
    """ServiceMonitor and PrometheusRule have known fields only."""
    document = DOCUMENTS[name]
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.Draft202012Validator(CUSTOM[document["kind"]]).validate(document["spec"])


def test_documents_with_misspelt_field_are_rejected() -> None:
    """The checks above can fail."""
    deployment = json.loads(json.dumps(DOCUMENTS["deployment.yaml"]))
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)
    monitor = json.loads(json.dumps(DOCUMENTS["servicemonitor.yaml"]))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    assert not jsonschema.Draft202012Validator(CUSTOM["ServiceMonitor"]).is_valid(monitor["spec"])


def test_kustomization_names_every_file() -> None:
    """``kubectl apply --kustomize`` applies all files of the folder."""
    kustomization = DOCUMENTS["kustomization.yaml"]
    assert sorted(kustomization["resources"]) == sorted(set(DOCUMENTS) - {"kustomization.yaml"})
    (namespace,) = of_kind("Namespace")
    assert kustomization["namespace"] == namespace["metadata"]["name"]


def test_kustomization_images_have_the_compose_tags() -> None:
    """The kustomization renames every image of the pod."""
    (deployment,) = of_kind("Deployment")
    used = {container["image"] for container in deployment["spec"]["template"]["spec"]["containers"]}
    built = dict(service["image"].rsplit(":", 1) for service in services().values() if "build" in service)
    assert {image["name"]: image["newTag"] for image in DOCUMENTS["kustomization.yaml"]["images"]} == built
    assert used == set(built)


def test_monitor_service_and_pod_are_connected() -> None:
    """Labels and ports match."""
    (deployment,), (monitor,) = of_kind("Deployment"), of_kind("ServiceMonitor")
    service = DOCUMENTS["service.yaml"]
    pod = deployment["spec"]["template"]
    assert (
        deployment["spec"]["selector"]["matchLabels"]
        == service["spec"]["selector"]
        == pod["metadata"]["labels"]
    )
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    open_ports = {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == open_ports
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == set(open_ports)


def test_monitor_jobs_have_the_names_of_prometheus() -> None:
    """The monitor sends the token where it is required."""
    (monitor,) = of_kind("ServiceMonitor")
    jobs = {job["job_name"]: job for job in load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]}
    for endpoint in monitor["spec"]["endpoints"]:
        (name,) = [rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"]
        assert ("authorization" in endpoint) == ("authorization" in jobs[name])


def test_secret_has_one_name_and_is_not_committed() -> None:
    """Pod, monitor and the command in the guide agree on name and key."""
    (deployment,), (monitor,) = of_kind("Deployment"), of_kind("ServiceMonitor")
    (volume,) = [
        one["secret"]["secretName"]
        for one in deployment["spec"]["template"]["spec"]["volumes"]
        if one["name"] == "token"
    ]
    (asked,) = [
        one["authorization"]["credentials"] for one in monitor["spec"]["endpoints"] if "authorization" in one
    ]
    assert (asked["name"], asked["key"]) == (volume, "token")
    assert f"secret generic {volume}" in GUIDE.read_text(encoding="utf-8")
    assert of_kind("Secret") == []


def test_containers_are_read_only_and_limited() -> None:
    """Containers have a numeric user, no privileges and no service account token."""
    for document in (*of_kind("Deployment"), *of_kind("StatefulSet")):
        _check_pod(document["spec"]["template"]["spec"], document["spec"].get("volumeClaimTemplates", ()))


def _check_pod(pod: dict[str, Any], claims: Sequence[dict[str, Any]]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    names = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= names


def test_pods_use_the_redis_of_the_manifests() -> None:
    """Address, password file, secret and image are those of the server."""
    (deployment,), (server,) = of_kind("Deployment"), of_kind("StatefulSet")
    service = DOCUMENTS["redis-service.yaml"]
    pod = deployment["spec"]["template"]["spec"]
    secret = next(one["secret"]["secretName"] for one in pod["volumes"] if one["name"] == "redis-password")
    for container in pod["containers"]:
        values = {one["name"]: one["value"] for one in container["env"]}
        address = parse_address(values["OTEL_PROGRESS_STORE"])
        assert address.hosts == ((service["metadata"]["name"], service["spec"]["ports"][0]["port"]),)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert address.password_file == f"{mounts['redis-password']}/password"
    template = server["spec"]["template"]
    assert server["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert secret in {one.get("secret", {}).get("secretName") for one in template["spec"]["volumes"]}
    assert template["spec"]["containers"][0]["image"] == services()["redis"]["image"]
    assert f"secret generic {secret}" in GUIDE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """deploy/kubernetes/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_kubernetes", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_match_their_sources(generator: ModuleType) -> None:
    """If this fails, run deploy/kubernetes/generate.py."""
    assert generator.stale() == []


def test_prometheus_rules_have_the_groups_of_the_source() -> None:
    """Each PrometheusRule has exactly the groups of its file."""
    sources = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    assert [rule["spec"] for rule in of_kind("PrometheusRule")] == [load(source) for source in sources]


def test_config_maps_have_one_dashboard_each() -> None:
    """They have the label and folder for Grafana's sidecar."""
    maps = {name: data for one in of_kind("ConfigMap") for name, data in one["data"].items()}
    sources = {path.name: path for path in (PROJECT / "grafana" / "dashboards").glob("*.json")}
    assert {name: text.rstrip("\n") for name, text in maps.items()} == {
        name: path.read_bytes().decode().rstrip("\n") for name, path in sources.items()
    }
    for one in of_kind("ConfigMap"):
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert one["metadata"]["annotations"] == {"grafana_folder": "Progress"}
        assert len(next(iter(one["data"].values())).encode()) < 1024 * 1024


def test_generate_with_changed_sources_updates_files(generator: ModuleType, tmp_path: Path) -> None:
    """Changed, new and obsolete files are reported, written and removed."""
    rules, dashboards = tmp_path / generator.RULES, tmp_path / generator.DASHBOARDS
    rules.mkdir(parents=True)
    dashboards.mkdir(parents=True)
    (rules / "a.yml").write_text("groups: []\n", encoding="utf-8")
    (dashboards / "b.json").write_text('{\n  "title": "ü: # \'x\'",\n\n  "uid": "b"\n}\n', encoding="utf-8")
    left = tmp_path / generator.HERE / "dashboards" / "gone.yaml"
    left.parent.mkdir(parents=True)
    left.write_text("{}", encoding="utf-8")
    assert len(generator.write(tmp_path)) == 3
    assert not left.exists()
    assert generator.stale(tmp_path) == []
    made = yaml.safe_load((left.parent / "b.yaml").read_text(encoding="utf-8"))
    assert json.loads(made["data"]["b.json"]) == {"title": "ü: # 'x'", "uid": "b"}
    (rules / "a.yml").write_text("groups:\n  - name: g\n    rules: []\n", encoding="utf-8")
    assert generator.stale(tmp_path) == ["deploy/kubernetes/rules/a.yaml"]


def test_generate_with_unknown_argument_is_rejected() -> None:
    """Nothing is written."""
    command = [sys.executable, str(FOLDER / "generate.py"), "--chekc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr
