"""Capture of ``logging`` records with each way to set up logging.

Logging is set up before or after ``configure()``. Each program runs with and without capture. Its
output is the same, and the records are captured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

PROGRAM = """
import json, logging, logging.config, logging.handlers, sys
import otel_progress as progress

{before}
configured = progress.configure(store="memory:", console=False, otlp=False, capture_logs={capture})
{after}
with progress.operation("job", id="job"):
{work}
captured = [record.message for record in configured.get_logs("job")]
configured.shutdown()
print(json.dumps(captured), file=open("captured.json", "w"))
logging.getLogger("app").warning("at the end")
"""

DICT_CONFIG = """
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["out"], "level": "INFO"},
})
"""

FILE_CONFIG = """
open("logging.ini", "w").write('''
[loggers]
keys=root
[handlers]
keys=out
[formatters]
keys=
[logger_root]
level=INFO
handlers=out
[handler_out]
class=StreamHandler
args=(sys.stdout,)
''')
logging.config.fileConfig("logging.ini", disable_existing_loggers=False)
"""

CUSTOM_CLASS = """
class AppLogger(logging.Logger):
    def handle(self, record):
        record.msg = f"[{record.msg}]"
        super().handle(record)

    def callHandlers(self, record):
        sys.stderr.write(f"{record.name}: {record.getMessage()}\\n")

logging.setLoggerClass(AppLogger)
"""

QUEUE = """
import queue
waiting = queue.SimpleQueue()
logging.getLogger().addHandler(logging.handlers.QueueHandler(waiting))
listener = logging.handlers.QueueListener(waiting, logging.StreamHandler())
listener.start()
import atexit
atexit.register(listener.stop)
"""

WORK = 'logging.getLogger("app").info("info")\nlogging.getLogger("app.part").warning("warning %d", 1)'

SETUPS = {
    "nothing": ("", WORK, ["warning 1"]),
    "implicit": ("", 'logging.warning("first")\nlogging.error("second")', ["first", "second"]),
    "basic": ("logging.basicConfig(level=logging.INFO, stream=sys.stdout)", WORK, ["info", "warning 1"]),
    "file": (
        "logging.basicConfig(level=logging.INFO, format='%(message)s', filename='app.log')",
        WORK,
        ["info", "warning 1"],
    ),
    "force": (
        "logging.basicConfig(level=logging.ERROR)\nlogging.basicConfig(level=logging.INFO, force=True)",
        WORK,
        ["info", "warning 1"],
    ),
    "dictConfig": (DICT_CONFIG, WORK, ["info", "warning 1"]),
    "fileConfig": (FILE_CONFIG, WORK, ["info", "warning 1"]),
    "no propagation": (
        "logging.getLogger('app').propagate = False\nlogging.getLogger('app').setLevel(logging.INFO)",
        WORK,
        ["info", "warning 1"],
    ),
    "no last resort": ("logging.lastResort = None", WORK, ["warning 1"]),
    "disabled logger": ("logging.getLogger('app').disabled = True", WORK, ["warning 1"]),
    "custom class": (
        CUSTOM_CLASS,
        'logging.getLogger("custom").warning("warning %d", 1)',
        ["[warning 1]"],
    ),
    "queue": (QUEUE, WORK, ["warning 1"]),
    "wrong format": (
        "logging.basicConfig(level=logging.INFO)",
        'logging.getLogger("app").info("%d files", "many")',
        ["%d files many"],
    ),
    "failing handler": (
        "class Failing(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        raise OSError('no space')\n"
        "logging.getLogger('failing').addHandler(Failing())",
        "try:\n"
        "    logging.getLogger('failing').warning('lost')\n"
        "except OSError:\n"
        "    import traceback\n"
        "    traceback.print_exc()",
        ["lost"],
    ),
    "warnings": (
        "logging.captureWarnings(True)",
        "import warnings\nwarnings.warn('deprecated', DeprecationWarning)",
        None,
    ),
}


def run(
    folder: Path, before: str, after: str, work: str, *, capture: bool
) -> tuple[str, str, str, list[str]]:
    """Run a program.

    Return its output, its errors, its log file, and the captured messages.
    """
    program = PROGRAM.format(
        before=before, after=after, work=textwrap.indent(work, "    "), capture="'INFO'" if capture else False
    )
    # Why one folder for both programs: stack traces contain its path.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "program.py").write_text(program, encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
    result = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file = folder / "app.log"
    content = file.read_text(encoding="utf-8") if file.exists() else ""
    captured = json.loads((folder / "captured.json").read_text(encoding="utf-8"))
    return result.stdout, result.stderr, content, captured


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", SETUPS)
def test_capture_with_any_setup_has_all_records_and_leaves_the_output_unchanged(
    tmp_path: Path, name: str, is_before: bool
) -> None:
    """The control is the same program without capture."""
    setup, work, expected = SETUPS[name]
    before, after = (setup, "") if is_before else ("", setup)
    *output, captured = run(tmp_path / "it", before, after, work, capture=True)
    *control, nothing = run(tmp_path / "it", before, after, work, capture=False)
    assert output == control
    assert nothing == []
    if expected is None:
        (message,) = captured
        assert "DeprecationWarning: deprecated" in message
    else:
        assert captured == expected
