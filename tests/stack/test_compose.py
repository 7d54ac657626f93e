"""docker-compose.yml by itself: the schema of compose files, and the promises it makes about images, ports, checks and rights."""

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


def test_the_file_is_a_compose_file() -> None:
    """It keeps to the compose specification's own schema."""
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


def test_the_schema_is_not_empty(tmp_path: Any) -> None:
    """The check above can fail: a service with a misspelt key is refused."""
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


def test_it_starts_what_it_says() -> None:
    """The services are those of the guide, and only the job and Redis wait to be asked for."""
    found = services()
    assert set(found) == EXPECTED
    assert {name: service["profiles"] for name, service in found.items() if "profiles" in service} == {
        "job": ["job"],
        "redis": ["redis"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_images_are_pinned(name: str) -> None:
    """Every image has a tag with three numbers, which does not move; ours have the version of the package."""
    found, tag = image(services()[name])
    assert re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+(-alpine)?", tag)
    if found in BUILT:
        (version,) = re.findall(
            r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert tag == version
        assert services()[name]["build"]["target"] == found.removeprefix("otel-progress-")


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_bound_to_the_machine(name: str) -> None:
    """No port is open to the network, and what is open is what the service listens on."""
    for port in services()[name].get("ports", ()):
        match = re.fullmatch(r"127\.0\.0\.1:([0-9]+):([0-9]+)", port)
        assert match is not None, port
        assert match[1] == match[2]
        assert int(match[2]) in LISTENS[name]


def test_no_port_is_taken_twice() -> None:
    """All services can run at once."""
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert sorted(ports) == sorted(set(ports))


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_locked_down(name: str) -> None:
    """The root is read-only, no capability is left, no rights can be gained, memory and processes are bounded, logs as well."""
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
def test_what_runs_on_is_started_again(name: str) -> None:
    """Services come back after a crash or a restart of the machine; what is meant to end does not."""
    ends = name in {"prepare", "job"}
    assert services()[name]["restart"] == ("no" if ends else "unless-stopped")


@pytest.mark.parametrize("name", NAMES)
def test_health_checks_use_what_the_image_has(name: str) -> None:
    """A check runs a program of the image without a shell and asks the service's own port; an image without one has no check."""
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
def test_what_is_waited_for_can_be_known(name: str) -> None:
    """A condition of depends_on is one that comes true: healthy only with a check, completed only for what ends."""
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


def test_nothing_waits_for_itself() -> None:
    """There is an order in which everything can start."""
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
    """Every named volume is declared, and none is for nothing."""
    used = {
        source
        for service in services().values()
        for source, _, _ in mounts(service)
        if not source.startswith(".")
    }
    assert used == set(compose()["volumes"])


@pytest.mark.parametrize("name", NAMES)
def test_mounted_files_exist(name: str) -> None:
    """What is mounted from the project is there (Docker would make an empty folder of it) and cannot be written by the container."""
    for source, _, read_only in mounts(services()[name]):
        if source.startswith("."):
            assert (PROJECT / source).exists(), source
            assert read_only, source


def test_worker_and_server_share_the_journal_and_only_that() -> None:
    """The journal is mounted at one place in all that use it; the token only where it is asked for or given."""
    where = {
        volume: {
            name: target
            for name, service in services().items()
            for source, target, _ in mounts(service)
            if source == volume
        }
        for volume in ("journal", "secrets")
    }
    assert set(where["journal"]) == {"server", "worker", "job"}
    assert set(where["journal"].values()) == {"/var/lib/otel-progress/state"}
    assert set(where["secrets"]) == {"prepare", "server", "prometheus"}
    writers = {
        name
        for name, service in services().items()
        for source, _, ro in mounts(service)
        if source == "secrets" and not ro
    }
    assert writers == {"prepare"}


def test_the_volume_of_tempo_has_an_owner_before_tempo_starts() -> None:
    """Tempo waits for the container whose image says to whom its volume belongs."""
    assert "tempo" in {source for source, _, _ in mounts(services()["prepare"])}
    assert services()["tempo"]["depends_on"]["prepare"]["condition"] == "service_completed_successfully"


def test_nobody_has_a_password() -> None:
    """No password, token or key stands in the file: the one secret is made on the machine."""
    for name, service in services().items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY|USER$", variable)
            assert secret is None, f"{name}: {variable}={value}"


def test_grafana_keeps_the_datasources_of_its_image() -> None:
    """Its datasources are plugins that it would replace on the start; with a read-only root that fails, after it has ended them."""
    service = services()["grafana"]
    environment = service["environment"]
    assert service["read_only"] is True
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    disabled = re.split(r", *", environment["GF_PLUGINS_DISABLE_PLUGINS"])
    assert set(disabled) == BUNDLED_PLUGINS - {source["type"] for source in provisioned()}
    assert len(disabled) == len(set(disabled))


def test_grafana_has_the_memory_it_takes() -> None:
    """Version 13 is ended at 512 MiB while a browser draws dashboards: it has more, and does not spend it on compressing."""
    service = services()["grafana"]
    assert int(service["mem_limit"].removesuffix("m")) >= 768
    assert service["environment"]["GF_SERVER_ENABLE_GZIP"] == "false"


def test_grafana_shows_and_takes_nothing() -> None:
    """Visitors are viewers without logging in, there is no first administrator, and no form to log in with."""
    environment = services()["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
