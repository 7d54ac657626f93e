"""Declarations of settings, and the signature of ``configure``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import configure
from otel_progress.journal import open_journal
from otel_progress.settings.fields import PREFIX, SETTINGS, Setting, Settings

FIELD_TYPES = get_type_hints(Settings)
ARGUMENT_TYPES = get_type_hints(configure, localns={"TracerProvider": TracerProvider})


def list_classes(annotation: Any) -> Iterator[type]:
    """Yield the classes whose instances an annotation accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for argument in arguments:
            yield from list_classes(argument)
    elif origin is Literal:
        yield from {type(value) for value in arguments}
    else:
        yield origin or annotation
        if annotation is float:
            yield int


def test_configure_has_one_argument_per_setting_in_the_same_order() -> None:
    """The signature, the declarations and the fields agree."""
    others = {"tracer_provider", "inherit", "reconfigure"}
    arguments = [name for name in inspect.signature(configure).parameters if name not in others]
    assert arguments == [setting.name for setting in SETTINGS] == list(FIELD_TYPES)


def test_configure_arguments_are_keyword_only_and_default_to_none() -> None:
    """None means that an argument was not given."""
    for parameter in inspect.signature(configure).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is None
        assert type(None) in list_classes(ARGUMENT_TYPES[parameter.name])


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_configure_argument_accepts_every_value_of_its_setting(setting: Setting) -> None:
    """The type of an argument includes the type of its setting."""
    accepted = tuple(list_classes(ARGUMENT_TYPES[setting.name]))
    for value_class in list_classes(FIELD_TYPES[setting.name]):
        assert issubclass(value_class, accepted), (value_class, accepted)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_setting_default_has_the_declared_type_and_is_valid(setting: Setting) -> None:
    """A default needs no conversion."""
    assert isinstance(setting.default, tuple(list_classes(FIELD_TYPES[setting.name])))
    assert getattr(Settings(), setting.name) == setting.default
    if setting.default is not None:
        assert setting.parse(setting.default) == setting.default


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_setting_has_its_own_variable_and_a_meaning(setting: Setting) -> None:
    """The variable is the prefix and the name in capitals."""
    assert setting.variables[0] == f"{PREFIX}{setting.name.upper()}"
    assert setting.meaning.endswith(".")


def test_settings_from_their_environment_variables_are_the_same() -> None:
    """Another process gets every value that it can use."""
    settings = Settings().with_arguments(
        service_name="nightly",
        store="sqlite:////var/lib/progress.db",
        otlp=True,
        strict=True,
        tick=1 / 3,
        retention="7d",
        capture_logs="DEBUG",
        redact=False,
        resources=False,
        previews="/srv/previews",
        preview_at=(1 / 3, 0.25),
        preview_format="webp",
        public_url="https://progress.example.org",
        terminate_signals=True,
    )
    assert Settings.from_environ(settings.to_environ()) == settings
    assert Settings.from_environ(Settings(preview_at=(0.07,)).to_environ()).preview_at == (0.07,)
    assert Settings.from_environ(Settings(preview_at=30.5).to_environ()).preview_at == 30.5
    assert Settings.from_environ(Settings(preview_at="always").to_environ()).preview_at == "always"


def test_environment_variables_of_settings_have_no_secrets_and_no_resources() -> None:
    """Credentials of URLs are included on request only, and functions never."""
    settings = Settings().with_arguments(
        store="redis://user:secret@host/0",
        prometheus_port=9464,
        server_port=8000,
        server_host="0.0.0.0",
        console=True,
        token="dGhpcyBpcyBub3QgYSBzZWNyZXQ",
        redact=lambda key, text: text,
    )
    environ = settings.to_environ()
    assert environ["OTEL_PROGRESS_STORE"] == "redis://host/0"
    left_out = ("PROMETHEUS_PORT", "SERVER_PORT", "SERVER_HOST", "CONSOLE", "TOKEN", "TOKEN_FILE", "REDACT")
    assert not {f"{PREFIX}{name}" for name in left_out} & set(environ)
    assert settings.to_environ(has_credentials=True)["OTEL_PROGRESS_STORE"] == "redis://user:secret@host/0"
    assert settings.get_process_resources() == {"prometheus_port": 9464, "server_port": 8000, "console": True}


def test_environment_variable_of_a_relative_store_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process may run in another folder."""
    folder = tmp_path / "50% done"
    folder.mkdir()
    monkeypatch.chdir(folder)
    store = Settings(store="sqlite:///jobs/progress.db").to_environ()["OTEL_PROGRESS_STORE"]
    journal = open_journal(store)
    assert journal.location == folder / "jobs/progress.db"
    journal.close()


@pytest.mark.parametrize(
    ("store", "environ", "expected"),
    [
        ("redis://user:secret@db/0", {}, "redis://db/0"),
        ("redis://user:secret@db/0", {"OTEL_PROGRESS_STORE": "redis://user:secret@db/0"}, None),
        ("memory:", {"OTEL_PROGRESS_STORE": "sqlite:"}, "memory:"),
    ],
)
def test_selected_settings_for_children_have_no_credentials(
    store: str, environ: dict[str, str], expected: str | None
) -> None:
    """A variable of the process itself is inherited as it is."""
    variables = Settings(store=store, tick=0.5).to_environ(("store", "otlp"), environ=environ)
    assert variables.get("OTEL_PROGRESS_STORE") == expected
    assert "OTEL_PROGRESS_TICK" not in variables


def test_settings_for_children_have_otlp_if_it_was_given() -> None:
    assert Settings(otlp=True).to_environ(("otlp",)) == {"OTEL_PROGRESS_OTLP": "true"}
    assert Settings(otlp=None).to_environ(("otlp",)) == {}


def test_file_of_the_journal_replaces_the_store(tmp_path: Path) -> None:
    """A child in another folder, with another home directory, uses the same file."""
    file = tmp_path / "50% done" / "progress.db"
    settings = Settings(store="sqlite:")
    variables = settings.to_environ(location=file, environ={"OTEL_PROGRESS_STORE": "sqlite:"})
    journal = open_journal(variables["OTEL_PROGRESS_STORE"])
    assert journal.location == file
    journal.close()
    assert settings.name_store(file) == variables["OTEL_PROGRESS_STORE"]


@pytest.mark.parametrize(
    ("store", "name"), [("memory:", ""), ("redis://user:secret@db/0?name=a", "redis://db/0?name=a")]
)
def test_name_of_a_store_has_no_credentials(store: str, name: str) -> None:
    assert Settings(store=store).name_store(None) == name
