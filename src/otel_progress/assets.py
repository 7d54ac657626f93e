"""Bundled files for other programs: Grafana dashboards and Prometheus rules.

A wheel contains them below ``otel_progress/bundle``. In a checkout they are read from their
source folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from otel_progress.errors import ProgressError

if TYPE_CHECKING:
    from importlib.abc import Traversable


Bundle: TypeAlias = 'Literal["dashboards", "rules"]'
"""Name of a bundle of files."""


_CHECKOUT: Final[Mapping[Bundle, tuple[str, ...]]] = {
    "dashboards": ("grafana", "dashboards"),
    "rules": ("deploy", "prometheus", "rules"),
}
"""Folder of each bundle in a checkout."""


_SUFFIXES: Final[Mapping[Bundle, str]] = {"dashboards": ".json", "rules": ".yml"}


def read_bundle(bundle: Bundle) -> dict[str, bytes]:
    """Return the contents of the files of a bundle by name, sorted.

    Raises ProgressError when this installation does not contain the bundle.
    """
    for folder in (
        files("otel_progress") / "bundle" / bundle,
        Path(__file__).parents[2].joinpath(*_CHECKOUT[bundle]),
    ):
        contents = _read_folder(folder, _SUFFIXES[bundle])
        if contents:
            return contents
    fix = "Install the released package again: pip install --force-reinstall otel-progress"
    msg = f"This installation of otel-progress has no {bundle}. {fix}"
    raise ProgressError(msg)


def _read_folder(folder: Traversable, suffix: str) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    selected = [file for file in folder.iterdir() if file.name.endswith(suffix)]
    return {file.name: file.read_bytes() for file in sorted(selected, key=lambda file: file.name)}
