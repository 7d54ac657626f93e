"""One service.instance.id per process, in spans, events and metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.process

PATIENCE_S = 60.0

PROGRAM = """
import json, os, sys
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
import otel_progress as progress
from tests.support.otlp_receiver import receiving

def run(configure):
    # Record an operation, and return the ids of all signals.
    with receiving() as received:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{received.port}"
        runtime = configure()
        with progress.operation("job", id=f"job-{os.getpid()}", total=1) as op:
            op.increment()
        runtime.force_flush()
        operation = runtime.get_operation(f"job-{os.getpid()}")
        found = {"journal": [operation.instance.id], "spans": set(), "events": set(), "metrics": set()}
        provider = runtime._components.providers._source.provider
        if provider in runtime_providers():
            found["spans"] = {resource["service.instance.id"] for resource, _ in received.spans()}
        else:
            found["spans"] = {provider.resource.attributes.get("service.instance.id")}
        found["events"] = {resource["service.instance.id"] for resource, _ in received.records()}
        found["metrics"] = {resource["service.instance.id"] for resource, _ in received.metrics()}
        return {name: sorted(map(str, ids)) for name, ids in found.items()}

def runtime_providers():
    from otel_progress.runtime import providers
    return providers._own_providers

def configure(**given):
    return progress.configure(store="memory:", console=False, otlp=True, resources=False, **given)

def in_child(function):
    # Return the result of a forked child.
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(function()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return json.load(pipe)

def named(name):
    return TracerProvider(resource=Resource.create({"service.instance.id": name}))
"""


def run(code: str, **environ: str) -> Any:
    """Run code of the program. Return what it prints as JSON."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{PROGRAM}\n{code}"],
        env={**inherited, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "no_proxy": "*", **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def get_id(found: dict[str, list[str]], *signals: str) -> str:
    """Return the common id of signals."""
    ids = {id_ for signal in signals or found for id_ in found[signal]}
    assert len(ids) == 1, found
    return ids.pop()


def test_all_signals_and_the_journal_have_one_id() -> None:
    """Without a provider of the application."""
    assert len(get_id(run("print(json.dumps(run(configure)))"))) == 36


def test_provider_of_the_application_defines_the_id() -> None:
    """The journal has another id, because several processes may have this one."""
    found = run('print(json.dumps(run(lambda: configure(tracer_provider=named("web-1")))))')
    assert get_id(found, "spans", "events", "metrics") == "web-1"
    assert found["journal"] != ["web-1"]


def test_variable_defines_the_id() -> None:
    """As for every SDK."""
    found = run("print(json.dumps(run(configure)))", OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7")
    assert get_id(found, "spans", "events", "metrics") == "pod-7"


@pytest.mark.parametrize("provider", ["", "tracer_provider=named('web-1')"])
def test_forked_child_has_another_id_than_its_parent(provider: str) -> None:
    """Before and after the fork, all signals of each process agree."""
    code = f"""
parent = run(lambda: configure({provider}))
child = in_child(lambda: run_in_child())
print(json.dumps([parent, child]))
"""
    recorded = """
def run_in_child():
    from otel_progress import config
    components = config.current_runtime()._components
    source = components.providers._source.provider
    own = components.store.instance.id
    resources = {"spans": source.resource.attributes.get("service.instance.id")}
    for restart in components.fork_callbacks:
        holder = restart.__self__
        resource = getattr(holder, "_resource", None) or holder._provider.resource
        resources[type(holder).__name__] = resource.attributes["service.instance.id"]
    return {"journal": [own], **{name: [id_] for name, id_ in resources.items()}}
"""
    parent, child = run(recorded + code)
    before = get_id(parent, "spans", "events", "metrics")
    after = get_id(child, *(name for name in child if name != "spans" or not provider))
    assert before != after
    assert parent["journal"] != child["journal"]


def test_child_that_configures_does_not_use_the_provider_of_its_parent() -> None:
    """As below gunicorn with --preload, whose application sets the provider.

    With older SDKs the parent must have loaded ``configure``.
    """
    code = """
progress.configure
trace.set_tracer_provider(named("master"))
print(json.dumps([in_child(lambda: run(configure)) for _ in range(2)]))
"""
    first, second = run(code)
    assert get_id(first, "events", "metrics") == first["journal"][0]
    assert get_id(second, "events", "metrics") == second["journal"][0]
    assert first["journal"] != second["journal"]
