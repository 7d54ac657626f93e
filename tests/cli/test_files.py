"""Output files and broken standard streams of commands."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.cli_process import COMMAND, finish, start
from tests.support.command_line import TIMEOUT_S, clean_environ, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="requires POSIX files")


def _export(store: str, output: Path | str) -> None:
    result = run("--store", store, "export", "friday-42", "-o", str(output))
    assert (result.exit_code, result.output) == (0, "")


def test_export_to_new_file_honours_umask(store: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        _export(store, tmp_path / "out.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o640
    assert json.loads((tmp_path / "out.json").read_text())["operation_id"] == "friday-42"


def test_export_to_existing_file_keeps_mode_and_owner(store: str, tmp_path: Path) -> None:
    """The file is replaced: a program that has it open reads the old content."""
    target = tmp_path / "out.json"
    target.write_text("old")
    target.chmod(0o604)
    owner = (12_345, 23_456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(target, *owner)
    with target.open() as opened:
        _export(store, target)
        assert opened.read() == "old"
    state = target.stat()
    assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (0o604, *owner)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_export_through_links_writes_their_target(store: str, tmp_path: Path) -> None:
    """Symbolic links and other names of the file stay as they are."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub/target.json")
    _export(store, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    content = (tmp_path / "sub" / "target.json").read_text()
    (tmp_path / "other").hardlink_to(tmp_path / "sub" / "target.json")
    (tmp_path / "other").write_text("changed")
    _export(store, tmp_path / "link")
    assert (tmp_path / "other").stat().st_ino == (tmp_path / "sub" / "target.json").stat().st_ino
    assert json.loads((tmp_path / "other").read_text())["run"] == json.loads(content)["run"]


def test_export_to_pipe_writes_into_it(store: str, tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    _export(store, pipe)
    reader.join(TIMEOUT_S)
    assert json.loads(received[0])["operation_id"] == "friday-42"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["device", "link"])
def test_export_to_device_keeps_the_device(store: str, tmp_path: Path, name: str) -> None:
    """The devices are copies, so that a fault destroys nothing."""
    try:
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (tmp_path / "null").write_text("x")
    except PermissionError:
        pytest.skip("may not create or open a device here")
    for device in ("full", "null"):
        path = tmp_path / device
        if name == "link":
            path = tmp_path / f"link-{device}"
            path.symlink_to(device)
        result = run("--store", store, "export", "friday-42", "-o", str(path))
        assert result.exit_code == (1 if device == "full" else 0)
        assert result.stderr.count("\n") == (1 if device == "full" else 0)
        assert stat.S_ISCHR((tmp_path / device).stat().st_mode)


def test_export_to_dash_writes_to_stdout(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    result = run("--store", store, "export", "friday-42", "-o", "-")
    assert json.loads(result.stdout)["operation_id"] == "friday-42"
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.process
def test_export_to_dev_stdout_appends_to_redirected_file(store: str, tmp_path: Path) -> None:
    """The shell's file is not replaced."""
    target = tmp_path / "log"
    target.write_text("first\n")
    with target.open("a") as file:
        command = [*COMMAND, "--store", store, "export", "friday-42", "-o", "/dev/stdout"]
        subprocess.run(command, stdout=file, env=clean_environ(), check=True, timeout=TIMEOUT_S)
    first, second = target.read_text().splitlines()
    assert first == "first"
    assert json.loads(second)["operation_id"] == "friday-42"


def test_bundle_export_writes_through_links(tmp_path: Path) -> None:
    directory = tmp_path / "rules"
    assert run("rules", "export", str(directory)).exit_code == 0
    name = sorted(path.name for path in directory.iterdir())[0]
    content = (directory / name).read_text()
    (directory / name).rename(tmp_path / "kept.yml")
    (tmp_path / "kept.yml").write_text("changed")
    (tmp_path / "kept.yml").chmod(0o600)
    (directory / name).symlink_to(tmp_path / "kept.yml")
    assert run("rules", "export", str(directory), "--force").exit_code == 0
    assert (directory / name).is_symlink()
    assert (tmp_path / "kept.yml").read_text() == content
    assert stat.S_IMODE((tmp_path / "kept.yml").stat().st_mode) == 0o600


def test_bundle_export_to_pipe_is_rejected(tmp_path: Path) -> None:
    """Reading the pipe would never end."""
    directory = tmp_path / "rules"
    assert run("rules", "export", str(directory)).exit_code == 0
    path = sorted(directory.iterdir())[0]
    path.unlink()
    os.mkfifo(path)
    result = run("rules", "export", str(directory), "--force")
    assert result.exit_code == 1
    assert "not a regular file" in result.stderr


# --- standard streams ----------------------------------------------------------------------------

COMMANDS = [
    ("ls", "--all"),
    ("show", "friday-42", "--json"),
    ("export", "friday-42"),
    ("doctor",),
    ("watch", "--once"),
    ("fail", "lost"),
    ("--help",),
    ("--version",),
    ("unknown",),
]


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_with_broken_streams_writes_at_most_one_line(store: str, arguments: tuple[str, ...]) -> None:
    """Streams that are full or closed, and a pipe without a reader."""
    command = [sys.executable, "-m", "otel_progress", "--store", store, *arguments]
    for redirection in (">/dev/full", ">&-", "| true", ">/dev/null 2>/dev/full", ">&- 2>&-"):
        process = subprocess.run(
            ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *command],
            env=clean_environ(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert process.stderr.count("\n") <= 1, redirection
        assert "Traceback" not in process.stderr
        assert process.returncode in {0, 1, 2}, redirection


@pytest.mark.server
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
def test_serve_with_full_stdout_and_missing_store_still_serves(tmp_path: Path) -> None:
    """A named store may be created later."""
    import socket
    import time
    import urllib.request

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [*COMMAND, "--store", f"sqlite:///{tmp_path / 'later.db'}", "serve", "--port", str(port)]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, env=clean_environ())
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/operations") as answer:
                    assert json.load(answer)["operations"] == []
                break
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert not (tmp_path / "later.db").exists()
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


@pytest.mark.process
@pytest.mark.parametrize("ids", [(), ("friday-42",)], ids=["all", "id"])
def test_watch_waits_for_a_named_store(tmp_path: Path, ids: tuple[str, ...]) -> None:
    from contextlib import closing

    from otel_progress.journal import SqliteJournal
    from tests.support.command_line import present
    from tests.support.factories import ended, local_instance, snapshot

    path = tmp_path / "later" / "progress.db"
    process = start(f"sqlite:///{path}", "watch", *ids, "--json", "--interval", "0.05")
    here = local_instance(os.getpid()).id
    if ids:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Waiting for the journal ")
    with closing(SqliteJournal(path)) as journal:
        journal.write(present(snapshot(instance=here)))
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["operation_id"] == "friday-42"
        if ids:
            import time

            journal.write(present(ended(sequence=5, instance=here, ended_at=time.time())))
        else:
            process.terminate()
    finish(process)
    assert process.returncode == (0 if ids else -15)
