"""docker-compose.yml: its schema, images, ports, checks and rights."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.support.stack.files import (
    BUILT,
    BUNDLED_PLUGINS,
    COMPOSE,
    LISTENS,
    PROGRAMS,
    PROJECT,
    compose,
    image,
    mounts,
    provisioned,
    services,
)

pytestmark = pytest.mark.stack

EXPECTED = {
    "prepare",
    "server",
    "worker",
    "job",
    "collector",
    "prometheus",
    "alertmanager",
    "tempo",
    "loki",
    "grafana",
    "redis",
}
NAMES = sorted(EXPECTED)


def test_compose_file_matches_the_specification() -> None:
    """It matches the schema of the compose specification."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_schema_with_misspelt_key_is_rejected(tmp_path: Any) -> None:
    """The check above can fail."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text("services:\n  a:\n    imagee: b\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(wrong),
    ]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1


def test_services_are_those_of_the_guide() -> None:
    """Only the job needs a profile."""
    found = services()
    assert set(found) == EXPECTED
    assert {name: service["profiles"] for name, service in found.items() if "profiles" in service} == {
        "job": ["job"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_images_have_fixed_tags(name: str) -> None:
    """Tags have three numbers. Images of the project have the package version."""
    found, tag = image(services()[name])
    assert re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+(-alpine)?", tag)
    if found in BUILT:
        (version,) = re.findall(
            r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert tag == version
        assert services()[name]["build"]["target"] == found.removeprefix("otel-progress-")


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_bound_to_the_loopback_address(name: str) -> None:
    """A published port is one that the service listens on."""
    for port in services()[name].get("ports", ()):
        match = re.fullmatch(r"127\.0\.0\.1:([0-9]+):([0-9]+)", port)
        assert match is not None, port
        assert match[1] == match[2]
        assert int(match[2]) in LISTENS[name]


def test_ports_are_unique() -> None:
    """All services can run at the same time."""
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert sorted(ports) == sorted(set(ports))


@pytest.mark.parametrize("name", NAMES)
def test_containers_are_read_only_and_limited(name: str) -> None:
    """Capabilities, privileges, memory, processes and logs are restricted."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[0-9]+m", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "userns_mode"} & set(service)
    assert service.get("network_mode", "none") == "none"


@pytest.mark.parametrize("name", NAMES)
def test_services_restart_and_jobs_do_not(name: str) -> None:
    """Services restart after a crash or a reboot."""
    ends = name in {"prepare", "job"}
    assert services()[name]["restart"] == ("no" if ends else "unless-stopped")


@pytest.mark.parametrize("name", NAMES)
def test_health_checks_use_programs_of_the_image(name: str) -> None:
    """A check needs no shell and uses the service's port."""
    service = services()[name]
    check: Any = service.get("healthcheck")
    programs = PROGRAMS[image(service)[0]]
    if name in {"prepare", "job"}:
        assert check == {"disable": True}
    elif not programs:
        assert check is None
    else:
        assert check["test"][0] == "CMD"
        assert check["test"][1] in programs
        assert {"interval", "timeout", "retries"} <= set(check)
        for port in re.findall(r"http://127\.0\.0\.1:([0-9]+)/", " ".join(check["test"])):
            assert int(port) in LISTENS[name]


@pytest.mark.parametrize("name", NAMES)
def test_dependencies_have_conditions_that_can_be_met(name: str) -> None:
    """Healthy requires a check, completed requires a service that ends."""
    found = services()
    for other, how in found[name].get("depends_on", {}).items():
        check = found[other].get("healthcheck")
        assert "profiles" not in found[other], f"{other} is not started by itself"
        if how["condition"] == "service_healthy":
            assert check is not None
            assert not check.get("disable")
        elif how["condition"] == "service_completed_successfully":
            assert found[other]["restart"] == "no"
        else:
            assert how["condition"] == "service_started"


def test_dependencies_have_no_cycle() -> None:
    """All services can start in some order."""
    found = services()
    started: set[str] = set()
    while len(started) < len(found):
        ready = {
            name
            for name, service in found.items()
            if name not in started and set(service.get("depends_on", {})) <= started
        }
        assert ready, f"these wait for each other: {sorted(set(found) - started)}"
        started |= ready


def test_volumes_are_declared_and_used() -> None:
    """Every named volume is declared and mounted."""
    used = {
        source
        for service in services().values()
        for source, _, _ in mounts(service)
        if not source.startswith(".")
    }
    assert used == set(compose()["volumes"])


@pytest.mark.parametrize("name", NAMES)
def test_mounted_files_exist_and_are_read_only(name: str) -> None:
    """Docker would create a folder in place of a missing file."""
    for source, _, read_only in mounts(services()[name]):
        if source.startswith("."):
            assert (PROJECT / source).exists(), source
            assert read_only, source


def test_previews_and_token_are_mounted_where_needed() -> None:
    """The previews have one path in all services.

    The token is mounted only where it is used.
    """
    where = {
        volume: {
            name: target
            for name, service in services().items()
            for source, target, _ in mounts(service)
            if source == volume
        }
        for volume in ("previews", "secrets")
    }
    assert set(where["previews"]) == {"server", "worker", "job"}
    assert set(where["previews"].values()) == {"/var/lib/otel-progress/state"}
    assert set(where["secrets"]) == {"prepare", "server", "prometheus"}
    writers = {
        name
        for name, service in services().items()
        for source, _, ro in mounts(service)
        if source == "secrets" and not ro
    }
    assert writers == {"prepare"}


def test_tempo_waits_for_the_owner_of_its_volume() -> None:
    """The image of another container sets the owner."""
    assert "tempo" in {source for source, _, _ in mounts(services()["prepare"])}
    assert services()["tempo"]["depends_on"]["prepare"]["condition"] == "service_completed_successfully"


def test_compose_file_has_no_secret() -> None:
    """The only secret is created on the machine."""
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY|USER$", variable)
            assert secret is None, f"{name}: {variable}={value}"


def test_grafana_does_not_install_its_datasource_plugins() -> None:
    """An installation at start-up would fail on a read-only root."""
    service = services()["grafana"]
    environment = service["environment"]
    assert service["read_only"] is True
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    disabled = re.split(r", *", environment["GF_PLUGINS_DISABLE_PLUGINS"])
    assert set(disabled) == BUNDLED_PLUGINS - {source["type"] for source in provisioned()}
    assert len(disabled) == len(set(disabled))


def test_grafana_has_enough_memory() -> None:
    """Version 13 exceeds 512 MiB while a browser draws dashboards."""
    service = services()["grafana"]
    assert int(service["mem_limit"].removesuffix("m")) >= 768
    assert service["environment"]["GF_SERVER_ENABLE_GZIP"] == "false"


def test_grafana_is_anonymous_and_read_only() -> None:
    """Visitors are viewers. There is no administrator and no login form."""
    environment = services()["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
