"""A Prometheus with recorded samples that scrapes the simulation's exporters."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.listen_address import ANY, address, is_ready
from tests.support.servers import require, running

LOOKBACK_S: Final = 60.0
"""Maximum age of the last sample of a series."""


class Prometheus:
    """A running Prometheus, queried like Grafana does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of a response.

        Raises AssertionError with the reason of a refusal.
        """
        request = urllib.request.Request(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert not body.get("warnings"), (parameters, body["warnings"])
        return body["data"]

    def instant(self, expression: str, at: float) -> list[Any]:
        """Return the series at one time (Unix seconds)."""
        return self.ask("query", query=expression, time=f"{at:.3f}")["result"]  # type: ignore[no-any-return]

    def range(self, expression: str, start: float, end: float, step: float) -> list[Any]:
        """Return the series between two times."""
        return self.ask(
            "query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step:g}"
        )["result"]  # type: ignore[no-any-return]


@contextmanager
def prometheus(
    folder: Path, written: Path, targets: Mapping[str, str], *, rules: Sequence[str]
) -> Iterator[Prometheus]:
    """Run a Prometheus with the recorded samples and a scrape interval of 1 s."""
    data = folder / "prometheus"
    with written.open("a") as out:
        out.write("# EOF\n")
    command = [
        require("promtool"),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--quiet",
        str(written),
        str(data),
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    rule_files = [folder / f"rules-{number}.yml" for number, _ in enumerate(rules)]
    for path, text in zip(rule_files, rules, strict=True):
        path.write_text(text)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "prometheus.log"
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        ANY,
    ]
    # Recorded samples have no staleness markers as scrapes have. Their series end after this time
    # without a sample.
    kept = [
        "--storage.tsdb.retention.time=90d",
        "--enable-feature=exemplar-storage",
        f"--query.lookback-delta={LOOKBACK_S:g}s",
    ]
    with running([require("prometheus"), *arguments, *kept], ready=lambda: is_ready(log), log=log):
        yield Prometheus(address(log))
