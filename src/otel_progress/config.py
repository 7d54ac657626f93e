"""``configure()`` and the active runtime."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from otel_progress.diagnostics import logger, report_internal_error
from otel_progress.errors import ConfigurationError, ProgressError
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument.backend import backend_slot
from otel_progress.interrupts import is_interrupt
from otel_progress.locking import CallerLock
from otel_progress.processes import allows_daemon_threads
from otel_progress.runtime.automatic import automatic_options, read_automatic_settings
from otel_progress.runtime.builder import build_runtime
from otel_progress.runtime.components import ClockAndIds
from otel_progress.runtime.parent_process import (
    is_importing_main,
    is_multiprocessing_child,
    read_parent_settings,
)
from otel_progress.runtime.providers import discard_own_provider
from otel_progress.runtime.runtime import Runtime, install_exit_hooks, is_inherited
from otel_progress.settings.fields import Settings
from otel_progress.settings.parsing import (
    AutoMode,
    CaptureLevel,
    ConsoleMode,
    PreviewAt,
    RedactRule,
    ReportTo,
)
from otel_progress.shell import find_shell
from otel_progress.text import remove_credentials, truncate

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.instrument.backend import RecordingBackend


ReconfigureMode: TypeAlias = Literal["replace", "error"]
"""Effect of a second call of ``configure`` with other arguments."""


RECONFIGURE_MODES: Final = ("replace", "error")


_lock = CallerLock()
"""Held while a runtime is built, so that there is only one."""


_current: list[Runtime] = []
"""The latest runtime, if any. It may have been shut down."""


_automatic: list[Runtime] = []
"""The runtime that the first use of a helper started, if any. ``configure()`` replaces it."""


def _renew_lock() -> None:
    """Replace the lock in a forked child.

    A thread that does not exist there may have held it.
    """
    global _lock
    _lock = CallerLock()


on_fork(phase=ForkPhase.LOCKS, after_in_child=_renew_lock)


def configure(
    *,
    service_name: str | None = None,
    store: str | None = None,
    prometheus_port: int | None = None,
    prometheus_host: str | None = None,
    otlp: bool | None = None,
    console: ConsoleMode | None = None,
    tracer_provider: TracerProvider | None = None,
    strict: bool | None = None,
    tick: float | None = None,
    retention: float | str | None = None,
    metrics_retention: float | str | None = None,
    stall_after: float | str | None = None,
    segment_after: float | str | None = None,
    capture_logs: CaptureLevel | None = None,
    redact: RedactRule | None = None,
    resources: AutoMode | None = None,
    previews: str | bool | os.PathLike[str] | None = None,
    preview_at: PreviewAt | None = None,
    preview_edge: int | None = None,
    preview_format: str | None = None,
    preview_count: int | None = None,
    preview_size: int | str | None = None,
    public_url: str | None = None,
    server_port: int | None = None,
    server_host: str | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    report_to: ReportTo | None = None,
    terminate_signals: bool | None = None,
    enabled: bool | None = None,
    inherit: bool | None = None,
    reconfigure: ReconfigureMode | None = None,
) -> Runtime:
    """Record progress from now on and return the runtime.

    The runtime is also a context manager. Otherwise it shuts down at interpreter exit.

    Every argument but ``tracer_provider``, ``inherit`` and ``reconfigure`` has an environment
    variable: ``OTEL_PROGRESS_`` and its name in capitals. Arguments take precedence over the
    environment. None means that an argument is not given.
    Durations are seconds or texts such as ``"24h"``.

    ``store`` is ``memory:``, ``sqlite:``, ``sqlite:///path``, or for several machines
    ``redis://host`` (in the extra ``redis``). ``tracer_provider`` joins an existing provider, and
    later calls may join further ones. Without it the runtime joins the global provider, which the
    application may set before or after this call.

    ``capture_logs`` adds records of ``logging`` to the current level: True (from INFO), or the
    name or number of a severity. The level of each logger applies as well. ``redact``
    removes secrets from everything that is shown and stored. A function of a key (of metadata,
    or ``message``, ``error``, ``details``, ``log``) and a text is called after that and returns
    the text to show. It runs in the thread that reports the text, so it has to be fast.
    ``resources`` samples the resource usage of the process. ``server_port`` serves the API and
    the page from this process (``runtime.server_url``). Its secret is ``token``, or the content
    of ``token_file``.

    ``previews`` is where previews are stored (a folder, or a URL that fsspec supports), or
    False. ``preview_at`` is when they are captured: at fractions ``(0.25, 0.5, 0.75)``, at an
    interval ``30`` or ``"30s"``, or ``"always"``. The longer side of images has
    ``preview_edge`` pixels. At most ``preview_count`` previews of together ``preview_size``
    bytes are stored per operation. ``public_url`` is the URL of the server for clients.

    ``report_to`` sends progress to the platform that runs the process: ``"auto"``, or a list of
    ``argo``, ``github``, ``kubeflow``, ``systemd``, ``taskbar`` and URLs of health checks.

    ``terminate_signals`` installs handlers of SIGTERM and SIGHUP. They cancel the running
    operations, write everything within 2 seconds, and call the previous handler.

    Ports, the server and the console exist once. A child of multiprocessing does not create those
    of its parent again. With ``inherit``, a child of multiprocessing uses the settings of its
    parent instead of the environment, except those of tokens and functions. In a forked child the
    configuration stays active, and a call with other arguments replaces it.

    A part that the environment does not permit is left out, with a warning and a count. Examples
    are a port in use, no further thread, and a folder that is not writable. With ``strict`` it
    raises ConfigurationError.

    Calling it again with the same arguments returns the same runtime. With other arguments,
    ``reconfigure="replace"`` shuts the active runtime down, cancels its operations, and starts a
    new one with these arguments. That is the default in IPython and Jupyter, where a cell runs
    again. ``reconfigure="error"``, the default elsewhere, raises ConfigurationError.

    Thread-safe. Raises ConfigurationError for an invalid value, and for a value that contradicts
    the active runtime.
    Raises MissingExtraError if a required package is not installed. Nothing is changed then.
    """
    arguments = dict(locals())  # first statement: exactly the arguments
    provider, is_inheriting = arguments.pop("tracer_provider"), arguments.pop("inherit")
    is_replacing = _is_replacing(arguments.pop("reconfigure"))
    return start(arguments, provider, is_inheriting=bool(is_inheriting), is_replacing=is_replacing)


def start(
    arguments: Mapping[str, Any],
    provider: TracerProvider | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    sources: ClockAndIds | None = None,
    is_exclusive: bool = False,
    is_inheriting: bool = False,
    is_replacing: bool = False,
) -> Runtime:
    """Return the runtime of :func:`configure` for a mapping of its arguments.

    With ``is_exclusive``, raise ConfigurationError if there is an active runtime. With
    ``is_replacing``, an active runtime with other arguments is shut down first.
    """
    if provider is not None and not callable(getattr(provider, "get_tracer", None)):
        msg = (
            f"Invalid tracer_provider of type {type(provider).__name__}: "
            "expected an OpenTelemetry TracerProvider. Pass a provider or leave it out."
        )
        raise ConfigurationError(msg)
    if _lock.is_interrupting():
        msg = "Invalid call of configure(): expected no call that interrupts another one. Call it once."
        raise ConfigurationError(msg)
    with _lock.lock:
        end_automatic_runtime()
        active = current_runtime()
        if active is not None and is_exclusive:
            msg = "Progress is recorded already. Call shutdown() on the active runtime first."
            raise ConfigurationError(msg)
        options = automatic_options if environ is None else {}
        environ = os.environ if environ is None else environ
        if active is not None and not (
            is_replacing and _is_different(active, arguments, environ, options) and not is_inherited(active)
        ):
            return _reuse_runtime(active, arguments, provider)
        parent = read_parent_settings() if is_inheriting else None
        if parent is not None:
            environ = {**environ, **parent.environ}
        settings = Settings.from_environ(environ).with_arguments(**options).with_arguments(**arguments)
        if active is not None:
            active.shutdown()
            discard_own_provider()
        withheld = _find_withheld(settings, None if parent is None else arguments)
        return _start_runtime(settings, provider, sources, withheld)


def _is_replacing(mode: object) -> bool:
    if mode is None:
        return find_shell() is not None
    if mode not in RECONFIGURE_MODES:
        msg = f"Invalid argument reconfigure {truncate(repr(mode), 100)}: expected 'replace' or 'error'."
        raise ConfigurationError(msg)
    return mode == "replace"


def _is_different(
    runtime: Runtime,
    arguments: Mapping[str, object],
    environ: Mapping[str, str],
    options: Mapping[str, object],
) -> bool:
    """Return whether arguments are other ones than those of the active runtime.

    ``options`` are those of the instrumentor. A call without arguments is never different.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if not given:
        return False
    settings = Settings.from_environ(environ).with_arguments(**options).with_arguments(**given)
    return settings != runtime.settings


def _start_runtime(
    settings: Settings,
    provider: TracerProvider | None,
    sources: ClockAndIds | None,
    withheld: Collection[str],
) -> Runtime:
    if withheld:
        logger.debug("The parent process has these parts, so they are not created: %s", ", ".join(withheld))
    runtime = build_runtime(settings, provider, sources, withheld=withheld, configure_child=configure_child)
    backend_slot.cancel_deferral()
    _current[:] = [runtime]
    install_exit_hooks(runtime)
    return runtime


def end_automatic_runtime() -> None:
    """Shut down the runtime that the first use started, if it is active.

    Operations that are running in it are cancelled.
    """
    with _lock.lock:
        runtime = _automatic.pop() if _automatic else None
        if runtime is not None and runtime is current_runtime():
            runtime.shutdown()


def start_at_first_use(environ: Mapping[str, str]) -> RecordingBackend | None:
    """Start a recording without a call of ``configure()``. Other threads wait.

    ``environ`` has defaults of variables, see :func:`read_automatic_settings`. Return None in a
    call that interrupts the start, and after an error. Never raises, except an exception that
    interrupts it.
    """
    if _lock.is_interrupting():
        return None
    try:
        with _lock.lock:
            # Why again: another thread may have started it.
            if backend_slot.is_deferred:
                settings = read_automatic_settings(automatic_options, environ)
                _automatic[:] = [_start_runtime(settings, None, None, _find_withheld(settings))]
    except Exception as error:
        if is_interrupt(error):
            raise
        backend_slot.cancel_deferral()
        report_internal_error("start", "Progress of this process is not recorded", error=error)
    return backend_slot.peek()


def _find_withheld(settings: Settings, given: Mapping[str, object] | None = None) -> list[str]:
    """Return the settings whose resources this process must not create.

    The parent process of multiprocessing has them. ``given`` are the arguments of a call that
    inherits the settings of the parent. There the parent decides on all resources without an
    argument.
    """
    resources = settings.get_process_resources()
    if not resources or not is_multiprocessing_child():
        return []
    if is_importing_main():
        return sorted(resources)
    parent = read_parent_settings()
    known = {} if parent is None else parent.resources
    return sorted(
        name
        for name, value in resources.items()
        if (name in known and known[name] == value) or (given is not None and given.get(name) is None)
    )


def configure_child(variables: Mapping[str, str]) -> None:
    """Record progress with the settings of the process that pickled a handle.

    ``variables`` are environment variables with these settings. Credentials of the store are those
    of the environment, or of the parent process of multiprocessing. An active runtime is kept.
    Ports, the server and the console are those of the other process. An isolated interpreter, such
    as those of ``InterpreterPoolExecutor``, exports nothing over OTLP and samples no resources.
    Never raises.
    """
    try:
        with _lock.lock:
            if current_runtime() is not None:
                return
            parent = read_parent_settings()
            settings = Settings.from_environ(
                _add_credentials({**os.environ, **variables}, parent.environ if parent else os.environ)
            )
            if not allows_daemon_threads():
                # Why: gRPC, protobuf and psutil cannot be loaded there.
                logger.debug("An isolated interpreter does not export over OTLP or sample resources")
                settings = settings.with_arguments(otlp=False, resources=False)
            _start_runtime(settings, None, None, sorted(settings.get_process_resources()))
    except ProgressError as error:
        report_internal_error("start", "Progress of this process is not recorded", error=error)


def _add_credentials(variables: dict[str, str], source: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the credentials that ``source`` has in the same URLs."""
    return {
        name: source[name] if remove_credentials(source.get(name, "")) == value else value
        for name, value in variables.items()
    }


def current_runtime() -> Runtime | None:
    """Return the active runtime: None before ``configure()`` and after its shutdown."""
    return _current[0] if _current and not _current[0].is_shut_down else None


def _reuse_runtime(
    runtime: Runtime, arguments: Mapping[str, object], provider: TracerProvider | None
) -> Runtime:
    """Return the active runtime if the arguments agree with its settings."""
    given = {name: value for name, value in arguments.items() if value is not None}
    differences = runtime.settings.list_differences(runtime.settings.with_arguments(**given), given)
    if differences and is_inherited(runtime):
        return _replace_inherited(runtime, given, provider)
    if differences:
        msg = (
            f"Invalid second configure(): expected the values of the first one ({'; '.join(differences)}). "
            'Configure once, pass reconfigure="replace", or call shutdown() on the runtime first.'
        )
        raise ConfigurationError(msg)
    if provider is not None and runtime.settings.enabled:
        runtime.join(provider)
    return runtime


def _replace_inherited(
    runtime: Runtime, given: Mapping[str, object], provider: TracerProvider | None
) -> Runtime:
    """Apply other arguments in a forked child. The parent process keeps its runtime."""
    inherited = runtime.settings
    settings = inherited.with_arguments(**given)
    known = inherited.get_process_resources()
    resources = settings.get_process_resources()
    withheld = sorted(name for name, value in resources.items() if name in known and known[name] == value)
    runtime.shutdown()
    discard_own_provider()
    return _start_runtime(settings, provider, None, withheld)
