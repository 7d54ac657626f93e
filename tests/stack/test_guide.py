"""docs/deploy.md: services, versions and numbers match the files."""

from __future__ import annotations

import re

import pytest
from benchmarks import cardinality

from tests.support.stack.files import GUIDE, PROJECT, image, services

pytestmark = pytest.mark.stack

TEXT = GUIDE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(services()))
def test_service_table_has_images_and_ports(name: str) -> None:
    """Each row has the image with its tag and all ports."""
    service = services()[name]
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    assert ("built here" in row) if "build" in service else (f"`{':'.join(image(service))}`" in row)
    assert re.findall(r"\b[0-9]{4,5}\b", row.split("|")[3]) == [
        port.split(":")[1] for port in service.get("ports", ())
    ]


def test_image_versions_of_the_guide_are_in_use() -> None:
    """No other version is in the text."""
    mentioned = set(re.findall(r"`((?:prom|grafana|otel|redis)[a-z/-]*:v?[0-9][^`]*)`", TEXT))
    assert mentioned
    assert mentioned <= {service["image"] for service in services().values()}


def test_paths_of_the_guide_exist() -> None:
    """Paths in the guide name files of the repository."""
    text = re.sub(r"`[a-z/-]+:v?[0-9][^`]*`", "", TEXT)  # Names of images.
    paths = set(
        re.findall(r"(?<![\w/.-])((?:deploy|tests|docs|benchmarks)/[A-Za-z0-9_./-]*[A-Za-z0-9_])", text)
    )
    assert "deploy/kubernetes/kustomization.yaml" in paths
    assert {path for path in paths if not (PROJECT / path).exists()} == set()


def test_token_command_reads_the_created_file() -> None:
    """The command of the guide prints the file that the first start writes."""
    (path,) = services()["prepare"]["command"]
    assert f"docker compose exec server cat {path}" in TEXT


def test_memory_of_the_guide_is_the_sum_of_limits() -> None:
    """Services with a profile are not included."""
    limits = [
        int(service["mem_limit"].removesuffix("m"))
        for service in services().values()
        if "profiles" not in service
    ]
    assert f"add up to {sum(limits) / 1024:.1f} GiB" in TEXT


def rows() -> dict[tuple[int, int], int]:
    """Return the series of the guide's table by (operations, levels)."""
    found = re.findall(r"^\| ([0-9,]+) \| ([0-9,]+) \| ([0-9,]+) \| .* KiB \|", TEXT, re.MULTILINE)
    numbers = [[int(text.replace(",", "")) for text in row] for row in found]
    return {(operations, levels): series for operations, levels, series in numbers}


def test_series_table_has_the_rows_of_the_command() -> None:
    """Each measured scenario has a row in the same format."""
    assert list(rows()) == list(cardinality.SCENES)
    head = next(cardinality.table(iter(())))
    assert head in TEXT


@pytest.mark.parametrize("scene", [(1, 0), (1, 10), (1, 100), (10, 10)])
def test_series_counts_match_the_table(scene: tuple[int, int]) -> None:
    """Estimates may add some series."""
    assert cardinality.measure(*scene, scrapes=1).series == pytest.approx(rows()[scene], rel=0.15)


def test_series_per_operation_and_level_match_the_guide() -> None:
    """About 20 per operation and 4 per level."""
    table = rows()
    assert (table[100, 0] - table[1, 0]) / 99 == pytest.approx(20, abs=2.5)
    assert (table[100, 10] - table[100, 0]) / 1000 == pytest.approx(4, abs=0.5)
