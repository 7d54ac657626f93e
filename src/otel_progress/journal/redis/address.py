"""Address of a Redis journal from its URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from otel_progress.errors import ConfigurationError, JournalError
from otel_progress.text import escape_controls, truncate

SCHEMES: Final = {
    "redis": False,
    "rediss": True,
    "valkey": False,
    "valkeys": True,
    "redis+sentinel": False,
    "rediss+sentinel": True,
}
"""Accepted schemes, and whether they use TLS."""


ACCEPTED_URLS: Final = (
    "redis://HOST:6379/0, rediss://HOST:6379/0, or redis+sentinel://HOST:26379,HOST:26379/SERVICE/0"
)


MAX_NAME_CHARS: Final = 64
"""Characters of the name of a journal. A longer one is invalid."""


DEFAULT_PORT: Final = 6379


DEFAULT_SENTINEL_PORT: Final = 26379


DEFAULT_NAME: Final = "default"


_NAME: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_CHARS}}}")


_OPTIONS: Final = (
    "name",
    "password_file",
    "sentinel_username",
    "sentinel_password_file",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)
"""Options in the query of the URL."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Servers and options of a Redis journal.

    - ``hosts``: (host, port) of the server, or of each Sentinel.
    - ``service``: name of the master that the Sentinels watch, None without Sentinels.
    - ``database``: number of the database. A cluster has only 0.
    - ``name``: name of the journal. Journals of several names share one database.
    - ``tls``: encrypt the connection. ``ca_certs`` is a file of certificates of authorities,
      ``certfile`` and ``keyfile`` are a client certificate.

    Its text and its ``repr`` have no credentials. It cannot be pickled.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str | None = None
    database: int = 0
    name: str = DEFAULT_NAME
    tls: bool = False
    check_hostname: bool = True
    ca_certs: str | None = None
    certfile: str | None = field(default=None, repr=False)
    keyfile: str | None = field(default=None, repr=False)
    username: str | None = field(default=None, repr=False)
    _password: str | None = field(default=None, repr=False)
    password_file: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password_file: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        kind = ("rediss" if self.tls else "redis") + ("" if self.service is None else "+sentinel")
        service = "" if self.service is None else f"/{self.service}"
        name = "" if self.name == DEFAULT_NAME else f"?name={self.name}"
        return escape_controls(f"{kind}://{hosts}{service}/{self.database}{name}")

    def __reduce__(self) -> NoReturn:
        msg = "The address of a Redis journal has credentials and cannot be pickled."
        raise TypeError(msg)

    def read_password(self) -> str | None:
        """Return the password, from its file if one is given. Raises JournalError."""
        return self._password if self.password_file is None else _read_secret(self.password_file)

    def read_sentinel_password(self) -> str | None:
        """Return the password of the Sentinels. Raises JournalError."""
        path = self.sentinel_password_file
        return None if path is None else _read_secret(path)

    def check_certificates(self) -> None:
        """Raise JournalError if a file of certificates cannot be read.

        redis-py reports it like a server that cannot be reached.
        """
        import ssl

        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        for name, path in zip(names, (self.ca_certs, self.certfile, self.keyfile), strict=True):
            if path is None:
                continue
            try:
                with Path(path).open("rb"):
                    pass
                if name == "ssl_ca_certs":
                    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            except ssl.SSLError:
                msg = f"The file {escape_controls(path)} of {name} has no certificates: expected PEM."
                raise JournalError(f"{msg} Check the path.") from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                msg = f"The file {escape_controls(path)} of {name} cannot be read ({reason})."
                raise JournalError(f"{msg} Check its path and permissions.") from error


def is_redis_url(url: str) -> bool:
    """Return True if the scheme of a URL is that of a Redis journal."""
    return url.partition(":")[0].strip().lower() in SCHEMES


def parse_address(url: str) -> RedisAddress:
    """Return the address of a URL.

    Raises ConfigurationError if it is invalid. The message has no credentials.
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise _build_error("URL", "(hidden)", "a valid URL", f"Use {ACCEPTED_URLS}") from None
    if "@" in parts.path or "@" in parts.query or "@" in parts.fragment:
        # Why hidden: the text before it may be a part of the password.
        fix = "Write / in a password as %2F, ? as %3F, # as %23, : as %3A and @ as %40"
        raise _build_error("URL", "(hidden)", "no '@' behind the host", fix)
    if parts.fragment:
        raise _build_error("part", "#…", "no fragment", "Write # in a password as %23")
    scheme = parts.scheme.lower()
    options = _parse_options(parts)
    userinfo, _, netloc = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    is_sentinel = scheme.endswith("+sentinel")
    default_port = DEFAULT_SENTINEL_PORT if is_sentinel else DEFAULT_PORT
    hosts = tuple(_parse_host(host, default_port) for host in netloc.split(",")) if netloc else ()
    hosts = hosts or (("localhost", default_port),)
    segments = [unquote(segment) for segment in parts.path.split("/")[1:] if segment]
    service = None
    if is_sentinel:
        if not segments:
            raise _build_error("path", parts.path, "the name of a service", f"Use {ACCEPTED_URLS}")
        service = segments.pop(0)
    elif len(hosts) > 1:
        raise _build_error("hosts", netloc, "one host", f"Use {ACCEPTED_URLS}")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in {"true", "false"}:
        raise _build_error("ssl_check_hostname", check, "true or false", "Remove it to check the host name")
    if password and "password_file" in options:
        raise _build_error("password", "(hidden)", "one password", "Remove it, or remove password_file")
    return RedisAddress(
        hosts,
        service,
        _parse_database(segments),
        _parse_name(options.get("name", DEFAULT_NAME)),
        SCHEMES[scheme],
        check == "true",
        options.get("ssl_ca_certs"),
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
        unquote(username) or None,
        unquote(password) or None,
        options.get("password_file"),
        options.get("sentinel_username"),
        options.get("sentinel_password_file"),
    )


def _parse_options(parts: SplitResult) -> dict[str, str]:
    options = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _build_error("option", name, f"one of {', '.join(_OPTIONS)}", "Remove it")
        options[name] = value
    return options


def _parse_host(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    host = unquote(host.strip("[]")) or "localhost"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _build_error("port", port, "1 to 65535", "Write : in a password as %3A, and / as %2F")
    return host, int(port)


def _parse_database(segments: list[str]) -> int:
    if not segments:
        return 0
    number = segments[0]
    if len(segments) > 1 or not number.isascii() or not number.isdigit() or len(number) > 6:
        # Why an error: redis-py ignores it and uses database 0.
        raise _build_error("database", "/".join(segments), "a number", "Use ?name=NAME to name the journal")
    return int(number)


def _parse_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        expected = f"1 to {MAX_NAME_CHARS} letters, digits, '_', '.' and '-'"
        raise _build_error("name", name, expected, "Use another name of the journal")
    return name


def _read_secret(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        msg = f"The password file {escape_controls(path)} cannot be read ({reason}). Check its permissions."
        raise JournalError(msg) from error


def _build_error(what: str, value: str, expected: str, fix: str) -> ConfigurationError:
    shown = escape_controls(truncate(value, 100))
    return ConfigurationError(
        f"Invalid {what} {shown!r} in the URL of the store: expected {expected}. {fix}."
    )
