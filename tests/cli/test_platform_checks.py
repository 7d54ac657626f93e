"""Check of ``doctor`` for the platforms that receive progress."""

from __future__ import annotations

import pytest

from otel_progress.cli.findings import Finding
from otel_progress.cli.platform_checks import check_platforms
from tests.support.command_line import run

ARGO = {"ARGO_PROGRESS_FILE": "/tmp/progress"}


@pytest.mark.parametrize(
    ("report_to", "environ", "expected"),
    [
        ((), {}, ["ok no platform is present"]),
        ((), ARGO, ["note argo does not receive progress. Set OTEL_PROGRESS_REPORT_TO=argo or auto"]),
        (("auto",), {}, ["note report_to is auto, and no platform is present"]),
        (("auto",), ARGO, ["ok argo receives progress"]),
        (("https://host/secret",), {}, ["ok a health check receives progress"]),
        (
            ("github",),
            {},
            [
                "problem Invalid report_to github: expected the variable GITHUB_STEP_SUMMARY. "
                "Remove it, or use auto."
            ],
        ),
    ],
)
def test_check_lists_platforms(
    report_to: tuple[str, ...], environ: dict[str, str], expected: list[str]
) -> None:
    findings: list[Finding] = list(check_platforms(report_to, environ))
    assert [f"{finding.state} {finding.text}" for finding in findings] == expected


def test_doctor_does_not_show_the_url_of_a_health_check() -> None:
    result = run("--store", "memory:", "doctor", env={"OTEL_PROGRESS_REPORT_TO": "https://host/secret"})
    assert "a health check receives progress" in result.stdout
    assert "secret" not in result.stdout
