"""Generates PrometheusRules from the rules and ConfigMaps from the dashboards.

    python deploy/kubernetes/generate.py [--check]

The sources (deploy/prometheus/rules, grafana/dashboards) are included unchanged but indented.
``--check`` compares the files. The script uses the standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path("deploy/kubernetes")
RULES: Final = Path("deploy/prometheus/rules")
DASHBOARDS: Final = Path("grafana/dashboards")
MOST: Final = 1024 * 1024
"""Maximum number of bytes of a ConfigMap."""
_HEAD: Final = "# Made from {source} by deploy/kubernetes/generate.py; do not edit.\n"


def documents(project: Path = PROJECT) -> Iterator[tuple[Path, str]]:
    """Yield (path, text) of each file. Raises ValueError if a dashboard is too large."""
    for source in sorted((project / RULES).glob("*.yml")):
        yield (
            HERE / "rules" / f"{source.name.removesuffix('.yml')}.yaml",
            rule(source.relative_to(project), _text(source)),
        )
    for source in sorted((project / DASHBOARDS).glob("*.json")):
        yield (
            HERE / "dashboards" / f"{source.stem}.yaml",
            dashboard(source.relative_to(project), _text(source)),
        )


def rule(source: Path, text: str) -> str:
    """Return a PrometheusRule with the groups of a rule file."""
    name = source.name.removesuffix(".yml").replace(".", "-")
    return (
        _HEAD.format(source=source.as_posix())
        + f"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: otel-{name}\n"
        + "  labels:\n    app.kubernetes.io/name: otel-progress\nspec:\n"
        + _indented(text, 2)
    )


def dashboard(source: Path, text: str) -> str:
    """Return a ConfigMap with a dashboard and the labels for Grafana's sidecar."""
    if len(text.encode()) > MOST:
        msg = f"{source} has {len(text.encode())} bytes, more than a ConfigMap holds ({MOST})"
        raise ValueError(msg)
    return (
        _HEAD.format(source=source.as_posix())
        + f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: otel-{source.stem}\n"
        + '  labels:\n    grafana_dashboard: "1"\n  annotations:\n    grafana_folder: Progress\n'
        + f"data:\n  {source.name}: |\n"
        + _indented(text, 4)
    )


def stale(project: Path = PROJECT) -> list[str]:
    """Return the files that are missing, differ or are obsolete."""
    wanted = dict(documents(project))
    there = {
        path.relative_to(project)
        for folder in ("rules", "dashboards")
        for path in (project / HERE / folder).glob("*")
    }
    different = {path for path, text in wanted.items() if path not in there or _text(project / path) != text}
    return sorted(path.as_posix() for path in different | (there - set(wanted)))


def write(project: Path = PROJECT) -> list[str]:
    """Write changed files, delete obsolete ones, and return both."""
    changed = stale(project)
    wanted = dict(documents(project))
    for name in changed:
        path = project / name
        if Path(name) in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[Path(name)].encode())
        else:
            path.unlink()
    return changed


def main(arguments: Sequence[str]) -> int:
    """Write or compare the files.

    Return 1 if ``--check`` found a difference, 2 for an invalid argument.
    """
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python deploy/kubernetes/generate.py [--check]\n")
        return 2
    changed = stale() if arguments else write()
    for name in changed:
        sys.stdout.write(f"{'stale' if arguments else 'written'}: {name}\n")
    return 1 if arguments and changed else 0


def _text(path: Path) -> str:
    return path.read_bytes().decode()


def _indented(text: str, spaces: int) -> str:
    """Indent every line that is not empty."""
    return "".join(f"{' ' * spaces}{line}\n" if line else "\n" for line in text.rstrip("\n").split("\n"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
