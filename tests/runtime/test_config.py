from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from swerex.runtime.config import (
    DummyRuntimeConfig,
    LocalRuntimeConfig,
    RemoteRuntimeConfig,
    RuntimeConfig,
    get_runtime,
)
from swerex.runtime.dummy import DummyRuntime
from swerex.runtime.local import LocalRuntime
from swerex.runtime.remote import RemoteRuntime


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("SWEREX_AUTH_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("host", "completed"),
    [
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("https://sandbox.example", "https://sandbox.example"),
        ("sandbox.example", "http://sandbox.example"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("localhost:8000", "http://localhost:8000"),
        ("http://sandbox.example/", "http://sandbox.example"),
        ("https://gateway.example/sandboxes/7/", "https://gateway.example/sandboxes/7"),
        ("::1", "http://[::1]"),
        ("[::1]", "http://[::1]"),
        ("http://[::1]", "http://[::1]"),
    ],
)
def test_host_is_completed(host, completed):
    assert RemoteRuntimeConfig(host=host).host == completed


@pytest.mark.parametrize(
    "host", ["", "/", "http://", "ftp://sandbox.example", "http://sandbox.example:port", "http://[::1"]
)
def test_a_host_that_is_no_address_is_refused(host):
    with pytest.raises(ValidationError, match="is no address"):
        RemoteRuntimeConfig(host=host)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ValidationError, match="port"):
        RemoteRuntimeConfig(port=port)


@pytest.mark.parametrize("host", ["http://sandbox.example:8000", "http://gateway.example/sandboxes/7"])
def test_a_port_beside_a_host_that_cannot_take_one_is_refused(host):
    with pytest.raises(ValidationError, match="put it there, and leave out `port`"):
        RemoteRuntimeConfig(host=host, port=9000)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "http://127.0.0.1"),
        ({"port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "::1", "port": 8000}, "http://[::1]:8000"),
        ({"host": "sandbox.example:8000"}, "http://sandbox.example:8000"),
    ],
)
def test_url(fields, url):
    assert RemoteRuntimeConfig(**fields).url == url


def test_token_is_read_from_the_environment_when_the_config_is_made(monkeypatch):
    monkeypatch.setenv("SWEREX_AUTH_TOKEN", "from-the-environment")
    assert RemoteRuntimeConfig().auth_token == "from-the-environment"
    monkeypatch.setenv("SWEREX_AUTH_TOKEN", "another")
    assert RemoteRuntimeConfig().auth_token == "another"


def test_a_given_token_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("SWEREX_AUTH_TOKEN", "from-the-environment")
    assert RemoteRuntimeConfig(auth_token="given").auth_token == "given"


def test_token_is_empty_by_default():
    assert RemoteRuntimeConfig().auth_token == ""


def test_secrets_are_dumped_but_not_shown():
    config = RemoteRuntimeConfig(
        auth_token="secret-1",
        headers={"Authorization": "secret-2"},
        proxies={"http": "http://u:secret-3@proxy"},
    )
    assert "secret" not in repr(config) + str(config)
    assert RemoteRuntimeConfig(**config.model_dump()) == config


def test_a_validation_error_does_not_show_the_token():
    with pytest.raises(ValidationError) as caught:
        RemoteRuntimeConfig(auth_token="secret", host="http://a:1", port=2)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("config_class", [LocalRuntimeConfig, RemoteRuntimeConfig, DummyRuntimeConfig])
def test_unknown_fields_are_refused(config_class):
    with pytest.raises(ValidationError, match="no_such_field"):
        config_class(no_such_field=1)


@pytest.mark.parametrize("config_class", [LocalRuntimeConfig, RemoteRuntimeConfig, DummyRuntimeConfig])
def test_the_type_tells_configs_apart(config_class):
    config = config_class()
    assert TypeAdapter(RuntimeConfig).validate_json(config.model_dump_json()) == config


def test_default_headers_are_not_shared():
    RemoteRuntimeConfig().headers["X"] = "1"
    assert RemoteRuntimeConfig().headers == {}


@pytest.mark.parametrize(
    ("config", "runtime_class"),
    [
        (LocalRuntimeConfig(), LocalRuntime),
        (RemoteRuntimeConfig(), RemoteRuntime),
        (DummyRuntimeConfig(), DummyRuntime),
    ],
)
def test_get_runtime(config, runtime_class):
    assert type(get_runtime(config)) is runtime_class
