"""Tests of redaction: recognised secrets, ordinary texts, and all outputs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Failure, codec
from otel_progress.diagnostics import internal_error_counts
from otel_progress.errors import ConfigurationError
from otel_progress.journal.registry import open_journal
from otel_progress.redaction import Redactor, redact_id
from otel_progress.redaction.patterns import _JOINED, _SECRETS, REDACTED, is_sensitive_key, redact_text
from otel_progress.settings.fields import Settings
from otel_progress.testing import Recorder, recording

SECRET = "hunter2-and-more"

SENSITIVE = """
    password db_password dbPassword DB_PASSWORD PGPASSWORD userPasswd passphrase secret
    client_secret clientSecret api_key apikey api-key apiKey APIKey X-Api-Key access_key
    aws_secret_access_key AWS_ACCESS_KEY_ID private_key privateKey ssh_key token access_token
    accessToken githubToken token_value token2 authorization Authorization proxy-authorization
    credential credentials gcp_credentials cookie set-cookie session session_id sessionId
    PHPSESSID jwt basic_auth db.password password_hash
""".split()  # noqa: SIM905 - words are easier to read than a list
HARMLESS = """
    author authority author_name secretary tokens tokens_processed token_count max_tokens
    total_tokens token_limit tokenizer password_length passwords_checked secrets_found
    session_count training_session cookie_count primary_key sort_key key keys keyboard monkey
    name path pwd compass bypass passenger accessed privateer authentication_method credentialed
    7 _ - ключ
""".split()  # noqa: SIM905 - words are easier to read than a list


@pytest.mark.parametrize("key", SENSITIVE)
def test_is_sensitive_key_of_secret_is_true(key: str) -> None:
    """A key that ends with a secret word is sensitive in snake, kebab and camel case."""
    assert is_sensitive_key(key)


@pytest.mark.parametrize("key", HARMLESS)
def test_is_sensitive_key_of_harmless_key_is_false(key: str) -> None:
    """A key that contains a secret word elsewhere, or counts secrets, is harmless."""
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
    "job-ghp_abcdefghijklmnopqrstuvwxyz0123456789": "job-[redacted]",
    "run_AKIAIOSFODNN7EXAMPLE": "run_[redacted]",
    "locale-sk-translation_of_all_documents": "locale-sk-translation_of_all_documents",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3": "jwt [redacted]",
    "cut eyJhbGciOiJIUzI1NiJ9.eyJzdWIiO…": "cut [redacted]…",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----": (
        "-----BEGIN RSA PRIVATE KEY-----[redacted]"
    ),
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}…": "-----BEGIN PRIVATE KEY-----[redacted]",
    f"Server=db;Uid=me;Pwd={SECRET};Port=1": "Server=db;Uid=me;Pwd=[redacted];Port=1",
    f"https://b.test/k?X-Amz-Date=1&X-Amz-Signature={SECRET}": (
        "https://b.test/k?X-Amz-Date=1&X-Amz-Signature=[redacted]"
    ),
    f"https://a.test/c?sv=1&sig={SECRET}&se=2": "https://a.test/c?sv=1&sig=[redacted]&se=2",
    f"cloning https://{SECRET}@git.test/a.git": "cloning https://[redacted]@git.test/a.git",
    f"curl -u me:{SECRET} https://h": "curl -u me:[redacted] https://h",
    f"curl -s --user 'me:{SECRET}' h": "curl -s --user 'me:[redacted]' h",
    f"curl -ume:{SECRET} h": "curl -ume:[redacted] h",
    f"mysqldump -h db -p{SECRET} shop": "mysqldump -h db -p[redacted] shop",
    f"mysql -p'{SECRET} x' shop": "mysql -p[redacted] shop",
    f"otp={SECRET}": "otp=[redacted]",
    f"the passcode: {SECRET}": "the passcode: [redacted]",
    f"<user>me</user><password>{SECRET} x</password>": "<user>me</user><password>[redacted]</password>",
    f'<ns:apiKey type="x">{SECRET}</ns:apiKey>': '<ns:apiKey type="x">[redacted]</ns:apiKey>',
    f"<password>{SECRET}…": "<password>[redacted]",
    f"password:\n  {SECRET}\nuser: me": "password:\n  [redacted]\nuser: me",
    f"token: \r\n{SECRET}": "token: \r\n[redacted]",
}


@pytest.mark.parametrize("text", TEXTS)
def test_redact_text_with_secret_replaces_only_the_secret(text: str) -> None:
    """The text around a secret stays unchanged."""
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
        "pwd=/srv/data and PWD=~/work, Pwd=C:\\Users\\me, pwd=$HOME",
        "docker run -u 1000:1000 image",
        "ssh://git@host/a.git and https://git@host/a.git",
        "mysql -p shop --port 3306",
        "function_signature=(int, str), signature: f(x)",
        "secret:\n  name: db\n",
        "<password></password><passwords_checked>3</passwords_checked>",
        "design=2 and resign=3",
        "",
    ],
)
def test_redact_text_without_secret_is_unchanged(text: str) -> None:
    """Ordinary texts are returned unchanged."""
    assert redact_text(text) is text or redact_text(text) == text


def test_redact_text_finds_every_sensitive_key() -> None:
    """The fast search for words finds every key that names a secret."""
    for key in (*SENSITIVE, *_SECRETS, *_JOINED):
        assert redact_text(f"{key}={SECRET}") == f"{key}=[redacted]" or key.isdigit(), key


@given(st.text(max_size=200), st.text(max_size=200))
def test_redact_text_of_any_text_never_raises(before: str, after: str) -> None:
    """Redacting a redacted text again changes nothing."""
    redacted = redact_text(f"{before} password={SECRET} {after}")
    assert redact_text(redacted) == redacted or REDACTED in redacted
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
        "https://a",
        "curl -u ",
        "curl -u a",
        "mysql -p'",
        "<password ",
        "<password>a",
        "password:\n",
        "password: \n a",
        "?sig=",
        "otp=",
    ],
)
def test_redact_text_takes_linear_time(part: str) -> None:
    """A text of 16 times the length takes less than 100 times as long (best of 5)."""
    import time

    def measure(length: int) -> float:
        text = (part * length)[:length]
        times = []
        for _ in range(5):
            started = time.thread_time()
            redact_text(text)
            times.append(time.thread_time() - started)
        return min(times)

    assert measure(64_000) < 100 * max(measure(4_000), 1e-4)


def render_outputs(recorder: Recorder) -> str:
    """Return the text of all snapshots, events and spans of a recorder."""
    change_set = recorder.runtime._store.collect()
    operations = [*recorder.runtime.get_active_operations(), *recorder.runtime.get_history()]
    documents: list[Any] = [codec.encode_operation(operation) for operation in operations]
    documents += [codec.encode_level(snapshot, 0.0) for snapshot in change_set.snapshots]
    documents += [codec.encode_event(event) for event in change_set.events]
    documents += [
        codec.encode_event(event)
        for operation in operations
        for event in recorder.runtime.get_events(operation.operation_id)
    ]
    spans = [
        (span.attributes, span.status.description, [event.attributes for event in span.events])
        for span in recorder.spans()
    ]
    texts = [
        (dict(attributes or {}), description, [dict(event or {}) for event in events])
        for attributes, description, events in spans
    ]
    return f"{codec.dumps(documents)} {texts}"


def leak(error: str = "") -> None:
    """Pass the secret in every argument of a level."""
    with progress.operation(
        "o", id="o", password=SECRET, dsn=f"db://u:{SECRET}@h", secrets=[SECRET], urls=[f"x://u:{SECRET}@h"]
    ) as op:
        op.update(message=f"token={SECRET}", nested={"api_key": SECRET})
        op.increment(message=f"password: {SECRET}")
        op.item("a", outcome="failed", error=ValueError(f"secret={SECRET}"), cookie=SECRET)
        with pytest.raises(ValueError, match="token"), op.level("step", "1"):
            raise ValueError(f"{error}token={SECRET}")
        op.level("step", "2").start().fail(f"password={SECRET}")


def test_outputs_never_contain_a_secret() -> None:
    """Metadata, messages, errors, tracebacks and items are redacted in all outputs."""
    with recording() as recorder:
        leak()
        outputs = render_outputs(recorder)
        assert recorder.operation("o").message == "password: [redacted]"
    assert REDACTED in outputs
    assert SECRET not in outputs


def test_message_of_running_operation_is_redacted() -> None:
    """Handles, readers and callbacks receive the newest message, redacted."""
    messages: list[str | None] = []
    with recording() as recorder:
        recorder.runtime.add_callback(lambda event, operation: messages.append(operation.message), 0.0)
        with progress.operation("o", id="o") as op:
            for number in range(3):
                op.update(message=f"{number} password={SECRET}")
                assert op.snapshot().message == f"{number} password=[redacted]"
                assert recorder.operation("o").message == f"{number} password=[redacted]"
                recorder.tick()
        assert recorder.runtime.force_flush(60.0)
    assert "2 password=[redacted]" in messages
    assert SECRET not in str(messages)


def test_redact_false_keeps_secrets() -> None:
    """With ``redact=False`` all values stay unchanged."""
    with recording(redact=False) as recorder:
        leak()
        assert recorder.operation("o").metadata["password"] == SECRET
        assert recorder.operation("o").message == f"password: {SECRET}"


def test_booleans_and_counts_are_not_redacted() -> None:
    """The existence of a password is not a secret."""
    with (
        recording() as recorder,
        progress.operation("o", id="o", has_password=True, password_count=3, token=5),
    ):
        assert recorder.operation("o").metadata == {
            "has_password": True,
            "password_count": 3,
            "token": REDACTED,
        }


def test_redact_function_is_called_after_the_patterns() -> None:
    """The function receives key and text of metadata, messages, errors and details."""
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
        operation = recorder.operation("o")
        assert operation.metadata == {"who": "A.", "pair": ("A.", "Bo"), "password": REDACTED}
        assert operation.error is not None
        assert operation.error.message == "A. is missing"
        assert "Ada" not in str(recorder.spans()[0].events[0].attributes)
    assert {"who", "pair", "message", "error", "details"} <= set(keys)
    assert "password" not in keys


@pytest.mark.parametrize("bad", [None, 5, "raise"])
def test_redact_function_that_fails_redacts_everything(bad: Any) -> None:
    """If the function raises or returns no text, the text is redacted and counted."""

    def hook(_: str, text: str) -> Any:
        if bad == "raise":
            raise RuntimeError(text)
        return bad

    before = internal_error_counts["redaction"]
    with recording(redact=hook) as recorder, progress.operation("o", id="o", who="Ada") as op:
        op.update(message="hello")
        assert (recorder.operation("o").message, op.snapshot().metadata["who"]) == (REDACTED, REDACTED)
    assert internal_error_counts["redaction"] >= before + 2


def test_redact_function_may_record_progress() -> None:
    """The function is not called recursively, and runs without the store's lock."""

    def hook(_: str, text: str) -> str:
        with progress.operation("inner", id="inner", who="Bo") as inner:
            inner.update(message="inner")
        # The thread needs the store's lock.
        reader = threading.Thread(target=recorder.runtime._store.reader.get_active_roots, daemon=True)
        reader.start()
        reader.join(60.0)
        return text if not reader.is_alive() else "a lock was held"

    with recording(redact=hook) as recorder, progress.operation("o", id="o") as op:
        op.update(message="outer")
        recorder.tick()
        assert op.snapshot().message == "outer"


def test_message_cache_is_bounded() -> None:
    """Different messages never fill the cache beyond its limit."""
    redactor = Redactor(max_cached_messages=8)
    for number in range(30):
        assert redactor.redact_message(f"file {number}") == f"file {number}"
    assert len(redactor._cached_messages) == 6


def test_redacted_message_is_truncated() -> None:
    """The replacement can be longer than a secret, so the result is truncated again."""
    with recording() as recorder, progress.operation("o", id="o") as op:
        op.update(message="token=a " * 200)
        message = recorder.operation("o").message
        assert message is not None
        assert len(message) == 1024


def test_plain_span_is_redacted(recorder: Recorder) -> None:
    """Metadata and message of a plain span are redacted in its operation."""
    tracer = recorder.provider.get_tracer("plain")
    with tracer.start_as_current_span("plain") as span:
        span.set_attributes(
            {"progress.operation.id": "p", "progress.total": 3, "progress.metadata.password": SECRET}
        )
        span.set_attribute("progress.message", f"token={SECRET}")
        recorder.tick()
        operation = recorder.operation("p")
        assert (operation.message, operation.metadata["password"]) == ("token=[redacted]", REDACTED)


# --- names and ids -------------------------------------------------------------------------------


def test_names_ids_types_units_and_keys_are_redacted() -> None:
    """Items, batches, failures and plain spans are included."""
    hidden = f"password={SECRET}"
    with recording() as recorder:
        batch = progress.batch(hidden, id=f"a {hidden}", type=f"b {hidden}").start()
        with progress.operation(
            f"import {hidden}", hidden, id=f"id {hidden}", unit=hidden, eta_key=f"key {hidden}", batch=batch
        ) as op:
            op.item(hidden, outcome="failed", error=Failure(f"type {hidden}", "x"))
            with op.level(hidden, hidden, hidden, unit=hidden), op.level("x", eta=hidden):
                pass
            assert op.operation_id == "id password=[redacted]"
        batch.close()
        tracer = recorder.provider.get_tracer("app")
        attributes = {
            "progress.operation.id": hidden,
            "progress.operation.type": hidden,
            "progress.operation.name": hidden,
            "progress.unit": hidden,
            "progress.total": 1,
        }
        with tracer.start_as_current_span("plain", attributes=attributes):
            recorder.tick()
        recorder.tick()
        text = render_outputs(recorder).partition("] [(")[0]
        batches = codec.dumps([codec.encode_batch(found) for found in recorder.runtime.reader.batches()])
    # Why only documents: the application exports the attributes of a plain span itself.
    assert SECRET not in batches
    assert SECRET not in text
    assert "password=[redacted]" in text


def test_redact_function_receives_names_but_no_ids() -> None:
    """Different ids stay different."""
    seen: list[tuple[str, str]] = []

    def hide(key: str, text: str) -> str:
        seen.append((key, text))
        return "hidden"

    with recording(redact=hide) as recorder, progress.operation("job", "Ada", id="ada", unit="file") as op:
        op.item("letter to Ada")
        assert (op.operation_id, op.snapshot().info.name) == ("ada", "hidden")
        recorder.tick()
    assert {("name", "Ada"), ("name", "file"), ("name", "letter to Ada")} <= set(seen)


@pytest.mark.parametrize("text", ["a.wav", "", "17", "2026-11-29", "a b", "pass", "token", "key-1"])
def test_redact_id_of_short_text_without_a_mark_is_unchanged(text: str) -> None:
    """The fast check agrees with the patterns."""
    with recording():
        assert redact_id(text) is text
    assert redact_text(text) == text


def test_errors_about_settings_hide_credentials() -> None:
    for store in (f"postgres://me:{SECRET}@h/db", f"me:{SECRET}@h", f"x://me:p@{SECRET}@h"):
        with pytest.raises(ConfigurationError) as invalid:
            open_journal(store)
        assert SECRET not in str(invalid.value)
    with pytest.raises(ConfigurationError) as invalid:
        Settings.from_environ({}).with_arguments(public_url=f"ftp://me:{SECRET}@h")
    assert SECRET not in str(invalid.value)
