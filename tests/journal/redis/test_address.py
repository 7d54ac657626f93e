"""URLs of Redis journals."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest

from otel_progress.errors import ConfigurationError, JournalError
from otel_progress.journal import open_journal
from otel_progress.journal.redis.address import RedisAddress, is_redis_url, parse_address
from otel_progress.journal.redis.client import RedisClient
from otel_progress.journal.redis.journal import RedisJournal

SECRET = "S3cret-p4ss"


@pytest.mark.parametrize(
    ("url", "hosts", "service", "database", "name", "tls"),
    [
        ("redis://", (("localhost", 6379),), None, 0, "default", False),
        ("redis://cache", (("cache", 6379),), None, 0, "default", False),
        ("REDIS://cache:7000/3", (("cache", 7000),), None, 3, "default", False),
        ("valkey://cache/?name=night.ly_1-a", (("cache", 6379),), None, 0, "night.ly_1-a", False),
        ("valkeys://cache", (("cache", 6379),), None, 0, "default", True),
        ("rediss://[::1]:6380/1", (("::1", 6380),), None, 1, "default", True),
        (
            "redis+sentinel://a,b:26380/main/2",
            (("a", 26379), ("b", 26380)),
            "main",
            2,
            "default",
            False,
        ),
    ],
)
def test_valid_url_is_parsed(
    url: str,
    hosts: tuple[tuple[str, int], ...],
    service: str | None,
    database: int,
    name: str,
    tls: bool,
) -> None:
    """Missing parts have defaults."""
    assert is_redis_url(url)
    found = parse_address(url)
    assert (found.hosts, found.service, found.database) == (hosts, service, database)
    assert (found.name, found.tls) == (name, tls)


def test_credentials_of_url_are_decoded() -> None:
    """Special characters are percent-encoded."""
    found = parse_address("redis://me%40home:a%2Fb%3Ac@cache")
    assert (found.username, found.read_password()) == ("me@home", "a/b:c")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/name",
        "redis://h/0/more",
        "redis://h/-1",
        "redis://h:port",
        "redis://h:0",
        "redis://h:65536",
        "redis://a,b",
        "redis://h?socket_timeout=9",
        "redis://h?name=",
        "redis://h?name=a:b",
        "redis://h?name=" + "x" * 65,
        "redis://h#part",
        "redis://[::1",
        "redis+sentinel://h",
        "rediss://h?ssl_check_hostname=maybe",
        "redis://:p@h?password_file=/x",
    ],
)
def test_invalid_url_raises_configuration_error(url: str) -> None:
    """The error names the invalid part and the fix, before any connection."""
    with pytest.raises(ConfigurationError, match=r"Invalid .* in the URL of the store: expected .*\. .+"):
        open_journal(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:port",
        f"redis://:{SECRET}@h/name",
        f"redis://:{SECRET}@h?nonsense=1",
        f"redis://:{SECRET}/x@h:6379/0",
        f"redis://:{SECRET}?x@h:6379/0",
        f"redis://:{SECRET}#x@h:6379/0",
        f"redis://user:{SECRET}@[::1",
        f"redis+sentinel://:{SECRET}@h",
    ],
)
def test_error_of_invalid_url_has_no_credentials(url: str) -> None:
    """A password whose characters are not encoded is hidden too."""
    with pytest.raises(ConfigurationError) as caught:
        open_journal(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_credentials_are_in_no_text_and_not_pickled() -> None:
    """No representation, message or pickle has them."""
    url = f"redis://user-name:{SECRET}@127.0.0.1:1/0"
    address = parse_address(url)
    journal = RedisJournal(address)
    with pytest.raises(JournalError) as caught:
        journal.prepare()
    texts = [str(address), repr(address), repr(journal), repr(RedisClient(address)), str(caught.value)]
    for text in texts:
        assert SECRET not in text
        assert "user-name" not in text
    for each in (address, journal, RedisClient(address)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(each)
        with pytest.raises(TypeError, match="cannot be pickled"):
            copy.deepcopy(each)


def test_password_file_is_read_at_each_connection(tmp_path: Path) -> None:
    """A rotated password needs no restart. A missing file is an error with its name."""
    file = tmp_path / "password"
    address = parse_address(f"redis://cache?password_file={file}")
    assert isinstance(address, RedisAddress)
    with pytest.raises(JournalError, match="password"):
        address.read_password()
    file.write_text("first\n")
    assert address.read_password() == "first"
    file.write_text("second")
    assert address.read_password() == "second"


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_missing_file_of_certificates_is_named(tmp_path: Path, option: str) -> None:
    """Nothing listens on the port, and no connection is tried."""
    file = tmp_path / "missing.pem"
    client = RedisClient(parse_address(f"rediss://127.0.0.1:1/0?{option}={file}"))
    with pytest.raises(JournalError, match=rf"missing\.pem of {option} cannot be read \(No such file"):
        client.execute_one("GET", "key")
    file.write_text("not a certificate")
    expected = "has no certificates: expected PEM" if option == "ssl_ca_certs" else "cannot be reached"
    with pytest.raises(JournalError, match=expected):
        client.execute_one("GET", "key")


def test_call_that_interrupts_a_client_inside_its_lock_does_not_wait_for_it() -> None:
    """The clock is read with the lock, after the server has rejected a client."""

    def interrupt() -> float:
        client.close()
        return 0.0

    client = RedisClient(parse_address("redis://127.0.0.1:1/0"), clock=interrupt)
    rejecting = threading.Thread(target=client._pause, args=(JournalError("rejected"), 1.0), daemon=True)
    rejecting.start()
    rejecting.join(60.0)
    assert not rejecting.is_alive()
    with pytest.raises(JournalError, match="rejected"):
        client.get_server()


def test_query_that_interrupts_another_one_of_its_thread_is_rejected() -> None:
    """The client of Redis would wait for a lock of its own thread."""
    interrupted = ["no call is active yet"]

    def interrupt() -> float:
        if not interrupted:
            interrupted.append("")
            with pytest.raises(JournalError) as caught:
                client.get_server()
            interrupted[0] = str(caught.value)
        return 0.0

    client = RedisClient(parse_address("redis://127.0.0.1:1/0"), clock=interrupt)
    client._pause(JournalError("rejected"), 1.0)
    interrupted.clear()
    for _ in range(2):
        with pytest.raises(JournalError, match="rejected"):
            client.execute_one("GET", "key")
    assert interrupted == [
        "Invalid query of redis://127.0.0.1:1/0: expected no other query of the same thread. "
        "It interrupted one. Repeat it after that has ended."
    ]
