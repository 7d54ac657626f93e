"""Endpoints that change state: cancel, close, delete, and mark as failed."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Body
from starlette.responses import Response

from otel_progress.codec import SCHEMA
from otel_progress.exports import encode_json_line
from otel_progress.operations import BatchSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import BatchController, Controller
from otel_progress.server.api.parameters import BatchId, OperationId
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


async def cancel_batch(
    services: AppStateDep,
    batch_id: BatchId,
    body: Annotated[CancelReason, Body(description="Reason of the request.")] = CancelReason(),  # noqa: B008 - never changed
) -> Response:
    """Request all active operations of a batch to stop."""
    document = await services.reader_pool.run(_cancel_batch, services, batch_id, body.reason)
    return Response(encode_json_line(document).encode(), HTTPStatus.ACCEPTED, media_type="application/json")


async def close_batch(services: AppStateDep, batch_id: BatchId) -> Response:
    """Declare that a batch gets no more operations.

    Use it if the program that declared the batch exited without closing it.
    """
    document = await services.reader_pool.run(_close_batch, services, batch_id)
    return Response(encode_json_line(document).encode(), media_type="application/json")


async def delete_batch(services: AppStateDep, batch_id: BatchId) -> Response:
    """Delete a batch with its operations.

    No operation of it may be active. For abandoned operations, the rules of the deletion of an
    operation apply.
    """
    runs = await services.reader_pool.run(_delete_batch, services, batch_id)
    for operation_id, run in runs:
        services.hub.report_deleted(operation_id, run)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _cancel_batch(services: AppState, batch_id: str, reason: str) -> dict[str, object]:
    controller, _ = _get_batch_controller(services, batch_id)
    count = controller.cancel_batch(batch_id, reason)
    if not count:
        raise Problem(409, f"The batch {quote_text(batch_id)!r} has no active operation.")
    return {"schema": SCHEMA, "batch_id": batch_id, "operations": count, "reason": reason}


def _close_batch(services: AppState, batch_id: str) -> dict[str, object]:
    controller, _ = _get_batch_controller(services, batch_id)
    if not controller.close_batch(batch_id):
        raise Problem(409, f"The batch {quote_text(batch_id)!r} was closed before.")
    return {"schema": SCHEMA, "batch_id": batch_id}


def _delete_batch(services: AppState, batch_id: str) -> list[tuple[str, str]]:
    """Delete a batch. Return id and run of its listed operations."""
    controller, batch = _get_batch_controller(services, batch_id)
    if not controller.delete_batch(batch_id):
        msg = (
            f"An operation of the batch {quote_text(batch_id)!r} is active, or its process cannot be "
            "checked. Cancel the batch, or try again "
            f"{UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after the last heartbeat."
        )
        raise Problem(409, msg)
    return [(operation.operation_id, operation.run) for operation in (*batch.active, *batch.failed)]


def _get_batch_controller(services: AppState, batch_id: str) -> tuple[BatchController, BatchSnapshot]:
    controller = _get_controller(services)
    if not isinstance(controller, BatchController):
        raise Problem(501, "The controller of this server cannot change batches.")
    batch = services.reader.batch(batch_id)
    if batch is None:
        raise Problem(404, f"Unknown batch {quote_text(batch_id)!r}.")
    return controller, batch


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
