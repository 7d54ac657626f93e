"""Endpoint of the OTLP receiver over gRPC. Needs the extra ``grpc``."""

from __future__ import annotations

import hmac
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import grpc  # type: ignore[import-untyped]

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError, UnavailableError
from otel_progress.receivers import protobuf
from otel_progress.receivers.telemetry import InvalidRequestError, Signal
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import Limits

if TYPE_CHECKING:
    from otel_progress.receivers.receiver import Receiver

_SERVICES: Final[dict[Signal, str]] = {
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
}


class GrpcEndpoint:
    """gRPC server of a receiver, with the token and the limits of the HTTP endpoints.

    The constructor binds the address: port 0 selects a free one. Raises UnavailableError if it
    cannot be bound.
    """

    def __init__(
        self,
        receiver: Receiver,
        counts: ServerCounters,
        *,
        host: str,
        port: int,
        token: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 - it is immutable
    ) -> None:
        self._receiver = receiver
        self._counts = counts
        self._token = None if token is None else f"Bearer {token}".encode()
        self._pool = ThreadPoolExecutor(limits.otlp_threads, thread_name_prefix="otel-progress-grpc")
        self._server: Any = grpc.server(
            self._pool,
            maximum_concurrent_rpcs=limits.otlp_requests,
            options=[
                ("grpc.max_receive_message_length", limits.otlp_body_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        for signal, service in _SERVICES.items():
            self._server.add_generic_rpc_handlers([self._build_handler(signal, service)])
        name = host.strip("[]") or "0.0.0.0"
        try:
            address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            self._pool.shutdown(wait=False)
            msg = (
                f"Port {port} of {host} cannot be opened, so OTLP over gRPC cannot be served there. "
                "Stop the process that listens on it, or use another port, or 0 for a free one."
            )
            raise UnavailableError(msg) from error

    def start(self) -> None:
        """Serve in threads of this process."""
        self._server.start()

    def close(self, grace_s: float = 1.0) -> None:
        """Finish running requests within ``grace_s`` seconds, then stop."""
        self._server.stop(grace_s).wait(grace_s + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _build_handler(self, signal: Signal, service: str) -> Any:
        def export(body: bytes, context: Any) -> bytes:
            return self._export(signal, body, context)

        # Why without a deserializer: the receiver decodes the bytes like those of HTTP.
        method = grpc.unary_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(service, {"Export": method})

    def _export(self, signal: Signal, body: bytes, context: Any) -> bytes:
        if not self._is_authorised(context):
            self._counts.count_refusal("token")
            msg = "The token is missing or wrong. Send it as metadata: authorization: Bearer TOKEN."
            context.abort(grpc.StatusCode.UNAUTHENTICATED, msg)
        try:
            receipt = self._receiver.receive(signal, body, "protobuf")
        except InvalidRequestError as error:
            return _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except JournalError as error:
            return _abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except Exception as error:
            # Why UNAVAILABLE: senders drop the records of an internal error.
            report_internal_error("receiver", "A request could not be stored", error=error)
            msg = "Internal error of the receiver. See its log."
            return _abort(context, grpc.StatusCode.UNAVAILABLE, msg)
        if signal != "metrics":
            self._counts.count_records(signal, "accepted", receipt.accepted)
            self._counts.count_records(signal, "rejected", receipt.rejected)
            self._counts.count_records("logs", "dropped", receipt.dropped)
        return protobuf.encode_response(signal, receipt.rejected, receipt.reason)

    def _is_authorised(self, context: Any) -> bool:
        if self._token is None:
            return True
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        return any([hmac.compare_digest(str(value).encode(), self._token) for value in given])


def _abort(context: Any, code: grpc.StatusCode, text: str) -> bytes:
    """Answer with an error. It raises the exception that ends the call."""
    context.abort(code, text)
    raise AssertionError
