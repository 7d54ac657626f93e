"""Configuration in children: inherited settings, other arguments, and resources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.exit_programs import read_ends, run
from tests.support.loopback import free_ports
from tests.support.otlp_receiver import attributes, receiving

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs all start methods"),
]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_script_with_a_fixed_port_maps_in_children(tmp_path: Path, method: str) -> None:
    """Neither the import of the script in a child nor its parent fails."""
    code = f"""
    import multiprocessing
    progress.configure(prometheus_port={free_ports("127.0.0.1", 1)[0]}, otlp=False, strict=True)
    def work(number):
        return number * number, progress.configure().metrics_url
    if __name__ == "__main__":
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            print(pool.map(work, range(4)))
    """
    assert run(tmp_path, code) == (0, "[(0, None), (1, None), (4, None), (9, None)]\n", "")


def test_child_logs_the_parts_that_its_parent_has_once_at_debug(tmp_path: Path) -> None:
    """A child of spawn that configures in its task knows the settings of its parent."""
    code = f"""
    import logging, multiprocessing
    logging.basicConfig(format="%(levelname)s %(message)s", stream=__import__("sys").stdout)
    logging.getLogger("otel_progress").setLevel("DEBUG")
    def configure():
        progress.configure(prometheus_port={free_ports("127.0.0.1", 1)[0]}, console=False, otlp=False)
    def work():
        configure()
        configure()
    if __name__ == "__main__":
        configure()
        process = multiprocessing.get_context("spawn").Process(target=work)
        process.start()
        process.join()
        print(process.exitcode)
    """
    status, output, errors = run(tmp_path, code)
    assert (status, errors) == (0, "")
    lines = [line for line in output.splitlines() if "parent process" in line]
    assert lines == ["DEBUG The parent process has these parts, so they are not created: prometheus_port"]
    assert output.splitlines()[-1] == "0"


def test_child_gets_a_port_that_its_parent_does_not_have(tmp_path: Path) -> None:
    """So does a forked child that asks for another port."""
    code = """
    import multiprocessing, urllib.request
    def work(given):
        url = progress.configure(console=False, otlp=False, **given).metrics_url
        queue.put(url is not None and urllib.request.urlopen(url).status)
    if __name__ == "__main__":
        for given in ({}, {"prometheus_port": 0}):
            progress.configure(console=False, otlp=False, prometheus_port=None)
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            process = context.Process(target=work, args=(given,))
            process.start()
            print(queue.get())
            process.join()
    """
    assert run(tmp_path, code) == (0, "False\n200\n", "")


def test_configure_with_other_arguments_in_a_forked_child_applies_them(tmp_path: Path) -> None:
    """The parent keeps its settings. A second change in the child is an error."""
    code = """
    import os
    from otel_progress import ConfigurationError
    parent = progress.configure(service_name="parent", console=False, otlp=False, tick=0.2)
    with progress.operation("o", id="before"):
        pass
    parent.force_flush(60)
    pid = os.fork()
    if pid == 0:
        assert progress.configure(service_name="parent") is parent
        child = progress.configure(service_name="child", tick=0.3)
        assert child is not parent and parent.is_shut_down and not child.is_shut_down
        assert (child.settings.service_name, child.settings.tick) == ("child", 0.3)
        assert child.settings.store == parent.settings.store
        assert progress.configure(service_name="child") is child
        try:
            progress.configure(service_name="third")
        except ConfigurationError:
            pass
        else:
            os._exit(1)
        with progress.operation("o", id="child"):
            pass
        print(progress.get_operation("child").instance.service, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not parent.is_shut_down
    with progress.operation("o", id="parent"):
        pass
    print(progress.get_operation("parent").instance.service)
    """
    assert run(tmp_path, code) == (0, "child\nparent\n", "")
    assert read_ends(tmp_path) == dict.fromkeys(("before", "child", "parent"), ("completed", None))


def test_initializer_with_other_values_does_not_start_workers_without_end(tmp_path: Path) -> None:
    """Each worker of a pool uses the values of the initializer."""
    code = """
    import multiprocessing
    def start():
        progress.configure(service_name="worker", console=False, otlp=False)
    def work(number):
        return progress.configure().settings.service_name
    if __name__ == "__main__":
        progress.configure(service_name="main", console=False, otlp=False)
        with multiprocessing.get_context("fork").Pool(2, initializer=start) as pool:
            print(set(pool.map(work, range(4))))
    """
    assert run(tmp_path, code) == (0, "{'worker'}\n", "")


def test_inherit_uses_the_settings_of_the_parent_in_spawned_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments take precedence over them, and they over the environment."""
    code = """
    import multiprocessing
    def work(given):
        settings = progress.configure(console=False, **given).settings
        queue.put((settings.service_name, settings.tick, settings.retention, settings.store))
    def start(shared):
        global queue
        queue = shared
    def ask(given):
        work(given)
    if __name__ == "__main__":
        parent = progress.configure(
            service_name="main",
            tick=0.3,
            retention="2h",
            store="sqlite:///other.db",
            console=False,
            otlp=False,
        )
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        for given in ({"inherit": True, "tick": 0.5}, {"otlp": False}):
            with context.Pool(1, initializer=start, initargs=(queue,)) as pool:
                pool.apply(ask, (given,))
            found = queue.get()
            print(*found[:3], found[3].endswith("/other.db"))
    """
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, code) == (0, "main 0.5 7200.0 True\nNone 0.1 86400.0 False\n", "")


@pytest.mark.parametrize("console", ["False", "True", "'json'", "None"])
def test_inherit_creates_no_console_of_its_own(tmp_path: Path, console: str) -> None:
    """A child that inherits prints nothing, unless its own call has a console."""
    code = f"""
    import multiprocessing, sys
    def work(given):
        sys.stderr = sys.stdout
        progress.configure(inherit=True, **given)
        with progress.operation("o", id="child", total=1):
            pass
    if __name__ == "__main__":
        progress.configure(console={console}, otlp=False)
        for given in ({{}}, {{"console": "json:1"}}):
            process = multiprocessing.get_context("spawn").Process(target=work, args=(given,))
            process.start()
            process.join()
            print("left", process.exitcode, flush=True)
    """
    status, output, errors = run(tmp_path, code)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert (lines[0], lines[-1]) == ("left 0", "left 0")
    assert '"operation_id":"child"' in lines[1]


def test_connections_of_otlp_are_not_shared_with_forked_children(tmp_path: Path) -> None:
    """Parent and children export over HTTP at the same time."""
    with receiving() as receiver:
        code = f"""
        import os
        environ = {{
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:{receiver.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }}
        os.environ.update(environ)
        runtime = progress.configure(console=False, otlp=True)
        def record(identity):
            with progress.operation("o", id=identity):
                pass
            assert runtime.force_flush(60)
        record("first")
        for number in range(8):
            if os.fork() == 0:
                record(f"child-{{number}}")
                os._exit(0)
        record("last")
        for number in range(8):
            assert os.wait()[1] == 0
        """
        assert run(tmp_path, code) == (0, "", "")
        spans = sorted(str(attributes(span).get("progress.operation.id")) for _, span in receiver.spans())
    assert spans == sorted(["first", "last", *(f"child-{number}" for number in range(8))])
