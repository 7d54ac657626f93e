"""deploy/kubernetes: valid for the API server and the Prometheus Operator, wired to each other, and equal to their sources."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.stack.files import DEPLOY, GUIDE, PROJECT, load, services

pytestmark = pytest.mark.stack

FOLDER = DEPLOY / "kubernetes"
KUBERNETES = "1.37.0"
"""The release whose schemas are asked; what is used here has been the same since 1.25."""
DOCUMENTS = {path.relative_to(FOLDER).as_posix(): load(path) for path in sorted(FOLDER.rglob("*.yaml"))}
CUSTOM = {
    kind: json.loads(
        (Path(__file__).parent / "operator" / f"{kind.lower()}.json").read_text(encoding="utf-8")
    )
    for kind in ("PrometheusRule", "ServiceMonitor")
}
"""The schemas of the Prometheus Operator's own kinds; where they are from is said in them."""


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Return the documents of a kind."""
    return [document for document in DOCUMENTS.values() if document["kind"] == kind]


@pytest.mark.parametrize(
    "name", [name for name, one in DOCUMENTS.items() if one["kind"] not in {*CUSTOM, "Kustomization"}]
)
def test_core_documents_keep_to_the_schemas_of_kubernetes(name: str) -> None:
    """Deployment, Service, ConfigMaps and the rest are valid, with no field that Kubernetes does not know."""
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("name", [name for name, one in DOCUMENTS.items() if one["kind"] in CUSTOM])
def test_custom_documents_keep_to_the_schemas_of_the_operator(name: str) -> None:
    """ServiceMonitor and PrometheusRules are valid by the operator's own definitions, with no field that they do not know."""
    document = DOCUMENTS[name]
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.Draft202012Validator(CUSTOM[document["kind"]]).validate(document["spec"])


def test_misspelt_fields_are_found() -> None:
    """The checks above can fail: a field more, in either kind of document, and they do."""
    deployment = json.loads(json.dumps(DOCUMENTS["deployment.yaml"]))
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)
    monitor = json.loads(json.dumps(DOCUMENTS["servicemonitor.yaml"]))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    assert not jsonschema.Draft202012Validator(CUSTOM["ServiceMonitor"]).is_valid(monitor["spec"])


def test_the_kustomization_names_every_file() -> None:
    """``kubectl apply --kustomize`` applies everything that lies here."""
    kustomization = DOCUMENTS["kustomization.yaml"]
    assert sorted(kustomization["resources"]) == sorted(set(DOCUMENTS) - {"kustomization.yaml"})
    (namespace,) = of_kind("Namespace")
    assert kustomization["namespace"] == namespace["metadata"]["name"]


def test_the_images_are_those_of_the_dockerfile() -> None:
    """Every image of the pod is renamed by the kustomization, with the tag that docker-compose.yml builds."""
    (deployment,) = of_kind("Deployment")
    used = {container["image"] for container in deployment["spec"]["template"]["spec"]["containers"]}
    built = dict(service["image"].rsplit(":", 1) for service in services().values() if "build" in service)
    assert {image["name"]: image["newTag"] for image in DOCUMENTS["kustomization.yaml"]["images"]} == built
    assert used == set(built)


def test_labels_and_ports_lead_from_monitor_to_pod() -> None:
    """ServiceMonitor, Service and Deployment find each other, port by port."""
    (deployment,), (service,), (monitor,) = (
        of_kind("Deployment"),
        of_kind("Service"),
        of_kind("ServiceMonitor"),
    )
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


def test_jobs_have_the_names_that_rules_know() -> None:
    """What the monitor scrapes gets the job labels of deploy/prometheus/prometheus.yml, and asks with the token where one is needed."""
    (monitor,) = of_kind("ServiceMonitor")
    jobs = {job["job_name"]: job for job in load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]}
    for endpoint in monitor["spec"]["endpoints"]:
        (name,) = [rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"]
        assert ("authorization" in endpoint) == ("authorization" in jobs[name])


def test_the_secret_is_named_alike_everywhere() -> None:
    """Pod, monitor and the command that makes the secret agree on its name and key; no secret lies in the repository."""
    (deployment,), (monitor,) = of_kind("Deployment"), of_kind("ServiceMonitor")
    (volume,) = [
        one["secret"]["secretName"]
        for one in deployment["spec"]["template"]["spec"]["volumes"]
        if "secret" in one
    ]
    (asked,) = [
        one["authorization"]["credentials"] for one in monitor["spec"]["endpoints"] if "authorization" in one
    ]
    assert (asked["name"], asked["key"]) == (volume, "token")
    assert f"secret generic {volume}" in GUIDE.read_text(encoding="utf-8")
    assert of_kind("Secret") == []


def test_containers_are_locked_down() -> None:
    """Everything runs as a user with a number, on a read-only root, without rights and with bounded memory; the pod has no token."""
    (deployment,) = of_kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {
            volume["name"] for volume in pod["volumes"]
        }


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """deploy/kubernetes/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_kubernetes", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date(generator: ModuleType) -> None:
    """Rules and dashboards lie here as they are in their sources; if not: python deploy/kubernetes/generate.py."""
    assert generator.stale() == []


def test_rules_are_the_rules() -> None:
    """Each PrometheusRule has exactly the groups of the file it is made from."""
    sources = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    assert [rule["spec"] for rule in of_kind("PrometheusRule")] == [load(source) for source in sources]


def test_dashboards_are_the_dashboards() -> None:
    """Each ConfigMap has one dashboard, byte for byte, with the label and folder that Grafana's sidecar looks for."""
    maps = {name: data for one in of_kind("ConfigMap") for name, data in one["data"].items()}
    sources = {path.name: path for path in (PROJECT / "grafana" / "dashboards").glob("*.json")}
    assert {name: text.rstrip("\n") for name, text in maps.items()} == {
        name: path.read_bytes().decode().rstrip("\n") for name, path in sources.items()
    }
    for one in of_kind("ConfigMap"):
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert one["metadata"]["annotations"] == {"grafana_folder": "Progress"}
        assert len(next(iter(one["data"].values())).encode()) < 1024 * 1024


def test_generating_notices_and_repairs(generator: ModuleType, tmp_path: Path) -> None:
    """A changed rule, a new dashboard and a file that nothing is made into any more are told, written and removed."""
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


def test_the_generator_refuses_other_arguments() -> None:
    """A misspelt option is refused with how to use it, and nothing is written."""
    command = [sys.executable, str(FOLDER / "generate.py"), "--chekc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr
