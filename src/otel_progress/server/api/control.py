"""Requests that change something: asking an operation to stop, forgetting one that is over."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Body
from starlette.responses import Response

from otel_progress.codec import SCHEMA
from otel_progress.exports import encode_json_line
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import Controller
from otel_progress.server.api.parameters import OperationId
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.schemas import CancelReason
from otel_progress.server.state import AppState, AppStateDep


async def cancel_operation(
    services: AppStateDep,
    operation_id: OperationId,
    body: Annotated[CancelReason, Body(description="Why it should stop.")] = CancelReason(),  # noqa: B008 - it is frozen in effect
) -> Response:
    """Ask the worker of an operation to stop. It stops by itself at the next element of `track`, or where it looks."""
    document = await services.reader_pool.run(_cancel, services, operation_id, body.reason)
    return Response(encode_json_line(document).encode(), HTTPStatus.ACCEPTED, media_type="application/json")


async def delete_operation(services: AppStateDep, operation_id: OperationId) -> Response:
    """Forget an operation that has ended, or that was abandoned: all its runs, with their events and logs.

    An abandoned one is forgotten once its process is gone for certain; where that cannot be seen, on another machine or in another
    container, ten minutes after its last sign of life.
    """
    services.hub.report_deleted(operation_id, await services.reader_pool.run(_delete, services, operation_id))
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _cancel(services: AppState, operation_id: str, reason: str) -> dict[str, str]:
    controller = _controller(services)
    operation = services.find(operation_id)
    if operation.status.finished or not controller.request_cancel(operation_id, reason):
        raise Problem(
            409,
            f"The operation {quote_text(operation_id)!r} has ended ({operation.status}): there is nothing to stop.",
        )
    return {"schema": SCHEMA, "operation_id": operation_id, "run": operation.run, "reason": reason}


def _delete(services: AppState, operation_id: str) -> str:
    """Delete the runs of an operation and return the newest one's; refuse while that is, or may be, under way."""
    controller = _controller(services)
    operation = services.find(operation_id)
    if operation.alive and not operation.status.finished:
        msg = f"The operation {quote_text(operation_id)!r} has not ended: only what is over can be deleted. Cancel it, or wait."
        raise Problem(409, msg)
    controller.delete(operation_id)
    left = services.reader.get(operation_id)
    if left is not None and left.run == operation.run:
        msg = (
            f"The process of {quote_text(operation_id)!r} seems to be dead, but it may work elsewhere without being heard. "
            f"It can be deleted {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after its last sign of life."
        )
        raise Problem(409, msg)
    return operation.run


def _controller(services: AppState) -> Controller:
    if services.controller is None:
        raise Problem(501, "This server only reads: it was started without a way to reach workers.")
    return services.controller
