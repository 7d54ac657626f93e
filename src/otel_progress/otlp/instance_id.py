"""``service.instance.id`` of this process.

New versions of the SDK give all resources of a process one id, and a new one after a fork. This
package uses the same id, so spans, events and metrics of a process agree. With older versions the
id is created here, and the providers of this package are changed after a fork. A provider of the
application is then known as that of the parent if ``configure`` was loaded before the fork.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from typing import Any, Final

from opentelemetry.sdk import resources
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import semconv

_IS_REFRESHED_BY_SDK: Final = hasattr(TracerProvider, "_handle_fork")
"""True if the SDK changes the ids of its providers after a fork."""


_PROCESS_PID: Final = "process.pid"


_ids: dict[int, str] = {}
"""Id of this process by its process id, for older versions of the SDK."""


def get_process_instance_id() -> str:
    """Return the id of this process. A forked child has another one."""
    detector: Any = getattr(resources, "ServiceInstanceIdResourceDetector", None)
    if detector is not None and _IS_REFRESHED_BY_SDK:
        return str(detector().detect().attributes[semconv.SERVICE_INSTANCE_ID])
    pid = os.getpid()
    if pid not in _ids:
        _ids.clear()
        _ids[pid] = str(uuid.uuid4())
    return _ids[pid]


def read_instance_id(provider: Any) -> str | None:
    """Return the id in the resource of a provider, or None.

    Return None for a resource of another process.
    """
    attributes = getattr(getattr(provider, "resource", None), "attributes", None) or {}
    if attributes.get(_PROCESS_PID, os.getpid()) != os.getpid():
        return None
    found = attributes.get(semconv.SERVICE_INSTANCE_ID)
    return str(found) if found else None


def set_instance_id(provider: Any, users: Iterable[Any], instance_id: str) -> None:
    """Change the id of a provider of an older SDK, and of its tracers or loggers.

    It uses no lock, because a thread that does not exist in a forked child may hold it. With newer
    versions it does nothing.
    """
    if _IS_REFRESHED_BY_SDK:
        return
    resource = provider.resource.merge(Resource({semconv.SERVICE_INSTANCE_ID: instance_id}))
    provider._resource = resource
    for user in users:
        # Why not hasattr: the attribute of the other name is a property without a setter.
        for name in ("resource", "_resource"):
            if name in vars(user):
                setattr(user, name, resource)
