"""Endpoints that change state: cancel an operation, delete an ended one."""

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
from otel_progress.server.schemas import CancelReason, FailReason
from otel_progress.server.state import AppState, AppStateDep


async def cancel_operation(
    services: AppStateDep,
    operation_id: OperationId,
    body: Annotated[CancelReason, Body(description="Reason of the request.")] = CancelReason(),  # noqa: B008 - never changed
) -> Response:
    """Request an operation to stop.

    Its process stops at the next element of `track` or the next check.
    """
    document = await services.reader_pool.run(_cancel, services, operation_id, body.reason)
    return Response(encode_json_line(document).encode(), HTTPStatus.ACCEPTED, media_type="application/json")


async def delete_operation(services: AppStateDep, operation_id: OperationId) -> Response:
    """Delete an ended or abandoned operation with its events and logs.

    An abandoned operation can be deleted when its process no longer exists. On another machine or
    in another container that is not visible: it can be deleted ten minutes after its last
    heartbeat.
    """
    run = await services.reader_pool.run(_delete, services, operation_id)
    services.hub.report_deleted(operation_id, run)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def fail_operation(
    services: AppStateDep,
    operation_id: OperationId,
    body: Annotated[FailReason, Body(description="Reason of the failure.")] = FailReason(),  # noqa: B008 - never changed
) -> Response:
    """Mark an abandoned operation as failed.

    Its process must not exist any more. On another machine or in another container that is not
    visible: the operation can be marked ten minutes after its last heartbeat.
    """
    document = await services.reader_pool.run(_fail, services, operation_id, body.reason)
    return Response(encode_json_line(document).encode(), media_type="application/json")


def _cancel(services: AppState, operation_id: str, reason: str) -> dict[str, str]:
    controller = _get_controller(services)
    operation = services.find(operation_id)
    if operation.status.finished or not controller.request_cancel(operation_id, reason):
        raise Problem(
            409,
            f"The operation {quote_text(operation_id)!r} has already ended ({operation.status}).",
        )
    return {"schema": SCHEMA, "operation_id": operation_id, "run": operation.run, "reason": reason}


def _fail(services: AppState, operation_id: str, reason: str) -> dict[str, str]:
    controller = _get_controller(services)
    operation = services.find(operation_id)
    quoted = quote_text(operation_id)
    if operation.status.finished:
        raise Problem(409, f"The operation {quoted!r} has already ended ({operation.status}).")
    if not operation.may_be_dead:
        raise Problem(409, f"The process of {quoted!r} is running. Cancel the operation instead.")
    if not controller.fail_abandoned(operation_id, reason):
        msg = (
            f"The process of {quoted!r} sends no heartbeat, but may run elsewhere. "
            f"Try again {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after the last heartbeat."
        )
        raise Problem(409, msg)
    return {"schema": SCHEMA, "operation_id": operation_id, "run": operation.run, "reason": reason}


def _delete(services: AppState, operation_id: str) -> str:
    """Delete the runs of an operation and return the newest.

    Raises Problem (409) while it may be running.
    """
    controller = _get_controller(services)
    operation = services.find(operation_id)
    if not operation.may_be_dead and not operation.status.finished:
        msg = f"The operation {quote_text(operation_id)!r} is still running. Cancel it or wait for its end."
        raise Problem(409, msg)
    controller.delete(operation_id)
    remaining = services.reader.get(operation_id)
    if remaining is not None and remaining.run == operation.run:
        msg = (
            f"The process of {quote_text(operation_id)!r} sends no heartbeat, but may run elsewhere. "
            f"Delete the operation {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after the last heartbeat."
        )
        raise Problem(409, msg)
    return operation.run


def _get_controller(services: AppState) -> Controller:
    if services.controller is None:
        raise Problem(501, "This server is read-only: it was started without a controller.")
    return services.controller
