"""docs/deploy.md says what the files say, and its numbers are what its command measures."""

from __future__ import annotations

import re

import pytest
from benchmarks import cardinality

from tests.support.stack.files import GUIDE, PROJECT, image, services

pytestmark = pytest.mark.stack

TEXT = GUIDE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(services()))
def test_services_images_and_ports_are_named(name: str) -> None:
    """Every service stands in the table with its image, tag and all as it runs, and with each of its ports."""
    service = services()[name]
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    assert ("built here" in row) if "build" in service else (f"`{':'.join(image(service))}`" in row)
    assert re.findall(r"\b[0-9]{4,5}\b", row.split("|")[3]) == [
        port.split(":")[1] for port in service.get("ports", ())
    ]


def test_no_other_versions_are_named() -> None:
    """An image that is mentioned anywhere in the guide is one that runs."""
    mentioned = set(re.findall(r"`((?:prom|grafana|otel|redis)[a-z/-]*:v?[0-9][^`]*)`", TEXT))
    assert mentioned
    assert mentioned <= {service["image"] for service in services().values()}


def test_files_that_are_named_exist() -> None:
    """Paths of the repository in the guide are those of files that are there."""
    text = re.sub(r"`[a-z/-]+:v?[0-9][^`]*`", "", TEXT)  # images
    paths = set(
        re.findall(r"(?<![\w/.-])((?:deploy|tests|docs|benchmarks)/[A-Za-z0-9_./-]*[A-Za-z0-9_])", text)
    )
    assert "deploy/kubernetes/kustomization.yaml" in paths
    assert {path for path in paths if not (PROJECT / path).exists()} == set()


def test_the_token_is_read_where_it_is_made() -> None:
    """The command that shows the token reads the file that the first start writes."""
    (path,) = services()["prepare"]["command"]
    assert f"docker compose exec server cat {path}" in TEXT


def test_the_memory_is_that_of_the_containers() -> None:
    """What has to be spared is the sum of the limits of what starts by itself."""
    limits = [
        int(service["mem_limit"].removesuffix("m"))
        for service in services().values()
        if "profiles" not in service
    ]
    assert f"add up to {sum(limits) / 1024:.1f} GiB" in TEXT


def rows() -> dict[tuple[int, int], int]:
    """Return the series that the guide's table has for each (operations, levels)."""
    found = re.findall(r"^\| ([0-9,]+) \| ([0-9,]+) \| ([0-9,]+) \| .* KiB \|", TEXT, re.MULTILINE)
    numbers = [[int(text.replace(",", "")) for text in row] for row in found]
    return {(operations, levels): series for operations, levels, series in numbers}


def test_the_table_is_that_of_the_command() -> None:
    """The guide's table has a line for each scene that the command measures, in its form."""
    assert list(rows()) == list(cardinality.SCENES)
    head = next(cardinality.table(iter(())))
    assert head in TEXT


@pytest.mark.parametrize("scene", [(1, 0), (1, 10), (1, 100), (10, 10)])
def test_series_are_as_many_as_the_table_says(scene: tuple[int, int]) -> None:
    """Measured again, the number of series is the guide's, give or take what estimates add once they are made."""
    assert cardinality.measure(*scene, scrapes=1).series == pytest.approx(rows()[scene], rel=0.15)


def test_operations_and_levels_cost_what_the_guide_says() -> None:
    """About 20 series an operation and about 4 a level: the differences between scenes of the guide's own table."""
    table = rows()
    assert (table[100, 0] - table[1, 0]) / 99 == pytest.approx(20, abs=2.5)
    assert (table[100, 10] - table[100, 0]) / 1000 == pytest.approx(4, abs=0.5)
