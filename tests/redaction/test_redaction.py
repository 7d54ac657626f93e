"""Secrets: what is taken for one, what is not, and that none leaves by any way out."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import codec, redaction
from otel_progress.diagnostics import internal_error_counts
from otel_progress.redaction import Redactor
from otel_progress.redaction.patterns import _JOINED, _SECRETS, REDACTED, is_sensitive_key, redact_text
from otel_progress.testing import Recorder, recording

SECRET = "hunter2-and-more"

SENSITIVE = """password db_password dbPassword DB_PASSWORD PGPASSWORD userPasswd passphrase secret client_secret clientSecret api_key
    apikey api-key apiKey APIKey X-Api-Key access_key aws_secret_access_key AWS_ACCESS_KEY_ID private_key privateKey ssh_key token
    access_token accessToken githubToken token_value token2 authorization Authorization proxy-authorization credential credentials
    gcp_credentials cookie set-cookie session session_id sessionId PHPSESSID jwt basic_auth db.password password_hash""".split()  # noqa: SIM905 - a list of words reads best as words
HARMLESS = """author authority author_name secretary tokens tokens_processed token_count max_tokens total_tokens token_limit tokenizer
    password_length passwords_checked secrets_found session_count training_session cookie_count primary_key sort_key key keys keyboard
    monkey name path pwd compass bypass passenger accessed privateer authentication_method credentialed 7 _ - ключ""".split()  # noqa: SIM905 - a list of words reads best as words


@pytest.mark.parametrize("key", SENSITIVE)
def test_sensitive_keys(key: str) -> None:
    """A key that ends with the word for a secret names one, in snake, kebab and camel case."""
    assert is_sensitive_key(key)


@pytest.mark.parametrize("key", HARMLESS)
def test_harmless_keys(key: str) -> None:
    """A key that only contains such letters, or counts such things, does not."""
    assert not is_sensitive_key(key)


TEXTS = {
    f"password={SECRET}": "password=[redacted]",
    f"login with password: {SECRET}, then go": "login with password: [redacted], then go",
    f"error: password={SECRET}": "error: password=[redacted]",
    f'{{"user": "a", "password": "{SECRET} x", "n": 1}}': '{"user": "a", "password": "[redacted]", "n": 1}',
    f'"{{\\"api_key\\": \\"{SECRET}\\"}}"': '"{\\"api_key\\": \\"[redacted]\\"}"',
    f"{{'db': {{'password': '{SECRET}'}}}}": "{'db': {'password': '[redacted]'}}",
    f"token='{SECRET}": "token='[redacted]'",
    f"Authorization: Bearer {SECRET}": "Authorization: [redacted]",
    f"curl -H 'Authorization: Basic {SECRET}==' url": "curl -H 'Authorization: [redacted]' url",
    f"Set-Cookie: sid={SECRET}; Path=/\nnext": "Set-Cookie: [redacted]\nnext",
    f"sent bearer {SECRET} along": "sent bearer [redacted] along",
    f"token=bearer {SECRET}": "token=[redacted]",
    f"run --password {SECRET} --out x": "run --password [redacted] --out x",
    f"run --db-password={SECRET} -v": "run --db-password=[redacted] -v",
    f"https://host/?a=1&access_token={SECRET}&b=2": "https://host/?a=1&access_token=[redacted]&b=2",
    f"postgres://me:{SECRET}@host:5432/db": "postgres://me:[redacted]@host:5432/db",
    f"postgres://me:p@{SECRET}@host/db": "postgres://me:[redacted]@host/db",
    f"redis://:{SECRET}@cache": "redis://:[redacted]@cache",
    f"cut off: postgres://me:{SECRET}…": "cut off: postgres://me:[redacted]…",
    "AKIAIOSFODNN7EXAMPLE is the key": "[redacted] is the key",
    "with ghp_abcdefghijklmnopqrstuvwxyz0123456789.": "with [redacted].",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3": "jwt [redacted]",
    "cut eyJhbGciOiJIUzI1NiJ9.eyJzdWIiO…": "cut [redacted]…",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----": "-----BEGIN RSA PRIVATE KEY-----[redacted]",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}…": "-----BEGIN PRIVATE KEY-----[redacted]",
}


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_in_texts(text: str) -> None:
    """What looks like a secret goes, and what stands around it stays."""
    assert redact_text(text) == TEXTS[text]


@pytest.mark.parametrize(
    "text",
    [
        "12:30:45 file 3 of 5: reading /srv/data/a.mp3",
        "tokens: 512 of 4096, loss=0.25",
        "session: morning",
        "author: Ada, title=Notes",
        "downloading https://host:8443/a/b/c.tar.gz?part=2",
        "basic understanding of the bearer of news",
        "forgot the password",
        "mailto:me@example.org",
        "a sentence about a secretary and her keyboard",
        "0123456789abcdef0123456789abcdef",
        "",
    ],
)
def test_ordinary_texts(text: str) -> None:
    """Texts without a secret come out as they went in."""
    assert redact_text(text) is text or redact_text(text) == text


def test_the_quick_look_misses_no_key() -> None:
    """Every key that names a secret has a word in it by which a text is looked at more closely."""
    for key in (*SENSITIVE, *_SECRETS, *_JOINED):
        assert redact_text(f"{key}={SECRET}") == f"{key}=[redacted]" or key.isdigit(), key


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text(before: str, after: str) -> None:
    """No text makes it raise, and what was redacted once stays as it is."""
    once = redact_text(f"{before} password={SECRET} {after}")
    assert redact_text(once) == once or REDACTED in once
    redact_text(before)


@pytest.mark.parametrize(
    "part",
    [
        "eyJ",
        "://a:",
        "password='",
        'password="\\',
        "--a ",
        "a=",
        "A",
        "a.",
        "-----BEGIN PRIVATE KEY",
        "bearer a",
    ],
)
def test_time_is_linear(part: str) -> None:
    """A text sixteen times as long takes about sixteen times as long, not two hundred times: the worst of several looks is let go."""
    import time

    def took(length: int) -> float:
        text = (part * length)[:length]
        times = []
        for _ in range(5):
            began = time.thread_time()
            redact_text(text)
            times.append(time.thread_time() - began)
        return min(times)

    assert took(64_000) < 100 * max(took(4_000), 1e-4)


def everything(recorder: Recorder) -> str:
    """Return all that any reader, sink or trace would see of the recorder's work."""
    batch = recorder.runtime._store.collect()
    operations = [*recorder.runtime.get_active_operations(), *recorder.runtime.get_history()]
    documents: list[Any] = [codec.encode_operation(one) for one in operations]
    documents += [codec.encode_level(one, 0.0) for one in batch.snapshots]
    documents += [codec.encode_event(one) for one in batch.events]
    documents += [
        codec.encode_event(one)
        for operation in operations
        for one in recorder.runtime.get_events(operation.operation_id)
    ]
    spans = [
        (span.attributes, span.status.description, [event.attributes for event in span.events])
        for span in recorder.spans()
    ]
    return f"{codec.dumps(documents)} {[(dict(a or {}), d, [dict(e or {}) for e in events]) for a, d, events in spans]}"


def leak(error: str = "") -> None:
    """Put the secret wherever a caller can."""
    with progress.operation(
        "o", id="o", password=SECRET, dsn=f"db://u:{SECRET}@h", secrets=[SECRET], urls=[f"x://u:{SECRET}@h"]
    ) as op:
        op.update(message=f"token={SECRET}", nested={"api_key": SECRET})
        op.increment(message=f"password: {SECRET}")
        op.item("a", outcome="failed", error=ValueError(f"secret={SECRET}"), cookie=SECRET)
        with pytest.raises(ValueError, match="token"), op.level("step", "1"):
            raise ValueError(f"{error}token={SECRET}")
        op.level("step", "2").start().fail(f"password={SECRET}")


def test_nothing_leaves() -> None:
    """Metadata, messages, errors with their tracebacks, items and spans are redacted in every snapshot, event and span."""
    with recording() as recorder:
        leak()
        seen = everything(recorder)
        assert recorder.operation("o").message == "password: [redacted]"
    assert REDACTED in seen
    assert SECRET not in seen


def test_while_it_runs() -> None:
    """What a handle, a reader and a callback are told in mid-work is redacted too, and the newest message is the one that is seen."""
    told: list[str | None] = []
    with recording() as recorder:
        recorder.runtime.add_callback(lambda event, operation: told.append(operation.message), 0.0)
        with progress.operation("o", id="o") as op:
            for number in range(3):
                op.update(message=f"{number} password={SECRET}")
                assert op.snapshot().message == f"{number} password=[redacted]"
                assert recorder.operation("o").message == f"{number} password=[redacted]"
                recorder.tick()
        assert recorder.runtime.force_flush(60.0)
    assert "2 password=[redacted]" in told
    assert SECRET not in str(told)


def test_switched_off() -> None:
    """With redact=False everything is as it was given."""
    with recording(redact=False) as recorder:
        leak()
        assert recorder.operation("o").metadata["password"] == SECRET
        assert recorder.operation("o").message == f"password: {SECRET}"


def test_flags_stay() -> None:
    """That there is a password is no secret."""
    with (
        recording() as recorder,
        progress.operation("o", id="o", has_password=True, password_count=3, token=5),
    ):
        assert recorder.operation("o").metadata == {
            "has_password": True,
            "password_count": 3,
            "token": REDACTED,
        }


def test_an_own_function() -> None:
    """A function of the application is called with key and text after the rules, for metadata, messages, errors and details."""
    keys: list[str] = []

    def hook(key: str, text: str) -> str:
        keys.append(key)
        return text.replace("Ada", "A.")

    def work() -> None:
        with progress.operation("o", id="o", who="Ada", pair=["Ada", "Bo"], password="x") as op:
            op.update(message=f"for Ada, token={SECRET}")
            assert op.snapshot().message == "for A., token=[redacted]"
            raise ValueError("Ada is missing")

    with recording(redact=hook) as recorder:
        with pytest.raises(ValueError, match="Ada"):
            work()
        one = recorder.operation("o")
        assert one.metadata == {"who": "A.", "pair": ("A.", "Bo"), "password": REDACTED}
        assert one.error is not None
        assert one.error.message == "A. is missing"
        assert "Ada" not in str(recorder.spans()[0].events[0].attributes)
    assert {"who", "pair", "message", "error", "details"} <= set(keys)
    assert "password" not in keys


@pytest.mark.parametrize("bad", [None, 5, "raise"])
def test_a_function_that_fails(bad: Any) -> None:
    """What raises or returns no text shows nothing, is counted, and the work goes on."""

    def hook(_: str, text: str) -> Any:
        if bad == "raise":
            raise RuntimeError(text)
        return bad

    before = internal_error_counts["redaction"]
    with recording(redact=hook) as recorder, progress.operation("o", id="o", who="Ada") as op:
        op.update(message="hello")
        assert (recorder.operation("o").message, op.snapshot().metadata["who"]) == (REDACTED, REDACTED)
    assert internal_error_counts["redaction"] >= before + 2


def test_a_function_that_makes_progress_itself() -> None:
    """A function that uses progress does not call itself without end, and no lock of the store is held while it runs."""

    def hook(_: str, text: str) -> str:
        with progress.operation("inner", id="inner", who="Bo") as inner:
            inner.update(message="inner")
        seen = threading.Thread(
            target=recorder.runtime._store.reader.get_active_roots, daemon=True
        )  # needs the store's lock
        seen.start()
        seen.join(60.0)
        return text if not seen.is_alive() else "a lock was held"

    with recording(redact=hook) as recorder, progress.operation("o", id="o") as op:
        op.update(message="outer")
        recorder.tick()
        assert op.snapshot().message == "outer"


def test_what_is_remembered_is_bounded() -> None:
    """Messages that all differ make nothing grow."""
    rules = Redactor()
    for number in range(3 * redaction.MAX_REMEMBERED):
        assert rules.message(f"file {number}") == f"file {number}"
    assert len(rules._remembered) <= redaction.MAX_REMEMBERED


def test_a_redacted_text_keeps_its_bound() -> None:
    """The mark is longer than many a secret; a text full of them is cut all the same."""
    with recording() as recorder, progress.operation("o", id="o") as op:
        op.update(message="token=a " * 200)
        message = recorder.operation("o").message
        assert message is not None
        assert len(message) == 1024


def test_plain_spans(recorder: Recorder) -> None:
    """Metadata, message and status of a plain span are redacted on their way into progress."""
    tracer = recorder.provider.get_tracer("plain")
    with tracer.start_as_current_span("plain") as span:
        span.set_attributes(
            {"progress.operation.id": "p", "progress.total": 3, "progress.metadata.password": SECRET}
        )
        span.set_attribute("progress.message", f"token={SECRET}")
        recorder.tick()
        one = recorder.operation("p")
        assert (one.message, one.metadata["password"]) == ("token=[redacted]", REDACTED)
