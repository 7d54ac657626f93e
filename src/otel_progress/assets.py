"""Files that come with the package for other programs: Grafana dashboards and Prometheus rules.

A wheel carries them below ``otel_progress/bundle``; in a checkout they are read from where they are made.
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
"""What can be asked for."""


_CHECKOUT: Final[Mapping[Bundle, tuple[str, ...]]] = {
    "dashboards": ("grafana", "dashboards"),
    "rules": ("deploy", "prometheus", "rules"),
}


_SUFFIXES: Final[Mapping[Bundle, str]] = {"dashboards": ".json", "rules": ".yml"}


def read_bundle(bundle: Bundle) -> dict[str, bytes]:
    """Return the contents of the files of a bundle by their names, sorted. Raises ProgressError when this installation has none."""
    for place in (
        files("otel_progress") / "bundle" / bundle,
        Path(__file__).parents[2].joinpath(*_CHECKOUT[bundle]),
    ):
        found = _read(place, _SUFFIXES[bundle])
        if found:
            return found
    fix = "Install the released package again: pip install --force-reinstall otel-progress"
    msg = f"This installation of otel-progress has no {bundle}. {fix}"
    raise ProgressError(msg)


def _read(place: Traversable, suffix: str) -> dict[str, bytes]:
    if not place.is_dir():
        return {}
    chosen = sorted((one for one in place.iterdir() if one.name.endswith(suffix)), key=lambda one: one.name)
    return {one.name: one.read_bytes() for one in chosen}
