from __future__ import annotations

import copy
import sys
from pathlib import PurePosixPath

import pytest
from pydantic import TypeAdapter, ValidationError

from swerex.deployment import get_deployment
from swerex.deployment.config import (
    DeploymentConfig,
    DockerDeploymentConfig,
    DummyDeploymentConfig,
    FargateDeploymentConfig,
    LocalDeploymentConfig,
    ModalDeploymentConfig,
    RemoteDeploymentConfig,
)
from swerex.deployment.dummy import DummyDeployment
from swerex.deployment.local import LocalDeployment
from swerex.deployment.remote import RemoteDeployment

ALL = [
    LocalDeploymentConfig,
    DockerDeploymentConfig,
    ModalDeploymentConfig,
    FargateDeploymentConfig,
    RemoteDeploymentConfig,
    DummyDeploymentConfig,
]


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("SWEREX_AUTH_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        (LocalDeploymentConfig(), {"type": "local"}),
        (
            DockerDeploymentConfig(),
            {
                "image": "python:3.11",
                "port": None,
                "docker_args": [],
                "startup_timeout": 180.0,
                "pull": "missing",
                "remove_images": False,
                "python_standalone_dir": None,
                "platform": None,
                "remove_container": True,
                "container_runtime": "docker",
                "exec_shell": ["/bin/sh", "-c"],
                "docker_internal_host": "http://127.0.0.1",
                "type": "docker",
            },
        ),
        (
            ModalDeploymentConfig(),
            {
                "image": "python:3.11",
                "startup_timeout": 180.0,
                "runtime_timeout": 60.0,
                "deployment_timeout": 3600.0,
                "modal_sandbox_kwargs": {},
                "install_pipx": True,
                "type": "modal",
            },
        ),
        (
            FargateDeploymentConfig(),
            {
                "image": "python:3.11",
                "port": 8880,
                "cluster_name": "swe-rex-cluster",
                "execution_role_prefix": "swe-rex-execution-role",
                "task_definition_prefix": "swe-rex-task",
                "log_group": "/ecs/swe-rex-deployment",
                "security_group_prefix": "swe-rex-deployment-sg",
                "fargate_args": {},
                "container_timeout": 900,
                "runtime_timeout": 60,
                "type": "fargate",
            },
        ),
        (DummyDeploymentConfig(), {"outputs": [], "type": "dummy"}),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_defaults(config, defaults):
    """Those that SWE-ReX has too; fields of our own come beside them."""
    found = config.model_dump()
    assert {key: found[key] for key in defaults} == defaults


def test_defaults_of_remote():
    assert RemoteDeploymentConfig().model_dump() == {
        "auth_token": "",
        "host": "http://127.0.0.1",
        "port": None,
        "timeout": 0.15,
        "headers": {},
        "verify": True,
        "proxies": None,
        "type": "remote",
    }


@pytest.mark.parametrize("config_class", ALL)
def test_unknown_fields_are_refused(config_class):
    with pytest.raises(ValidationError, match="no_such_field"):
        config_class(no_such_field=1)


@pytest.mark.parametrize("config_class", ALL)
def test_the_type_tells_configs_apart(config_class):
    config = config_class()
    assert TypeAdapter(DeploymentConfig).validate_python(config.model_dump()) == config


@pytest.mark.parametrize("config_class", ALL)
def test_json_round_trip(config_class):
    config = config_class()
    assert TypeAdapter(DeploymentConfig).validate_json(config.model_dump_json()) == config


def test_unknown_type_is_refused():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TypeAdapter(DeploymentConfig).validate_python({"type": "cloud"})


@pytest.mark.parametrize(
    "docker_args", [["--platform", "linux/arm64", "--init"], ["--init", "--platform=linux/arm64"]]
)
def test_platform_moves_from_docker_args(docker_args):
    config = DockerDeploymentConfig(docker_args=docker_args)
    assert (config.platform, config.docker_args) == ("linux/arm64", ["--init"])


def test_docker_args_of_the_caller_stay_as_they_are():
    docker_args = ["--platform", "linux/arm64"]
    DockerDeploymentConfig(docker_args=docker_args)
    assert docker_args == ["--platform", "linux/arm64"]


def test_an_option_that_only_begins_like_platform_stays():
    assert DockerDeploymentConfig(docker_args=["--platforms"]).docker_args == ["--platforms"]


@pytest.mark.parametrize(
    "fields",
    [
        {"docker_args": ["--platform=a"], "platform": "b"},
        {"docker_args": ["--platform", "a", "--platform=b"]},
    ],
)
def test_platform_given_twice_is_refused(fields):
    with pytest.raises(ValueError, match="the platform is given twice"):
        DockerDeploymentConfig(**fields)


@pytest.mark.parametrize("docker_args", [["--platform"], ["--platform="]])
def test_platform_without_value_is_refused(docker_args):
    with pytest.raises(ValueError, match="--platform in docker_args has no value"):
        DockerDeploymentConfig(docker_args=docker_args)


def test_modal_image_may_be_a_path():
    assert ModalDeploymentConfig(image=PurePosixPath("Dockerfile")).image == PurePosixPath("Dockerfile")


def test_default_lists_are_not_shared():
    DockerDeploymentConfig().docker_args.append("--init")
    assert DockerDeploymentConfig().docker_args == []


def test_a_copy_can_be_changed():
    config = DockerDeploymentConfig(docker_args=["--init"])
    changed = copy.deepcopy(config)
    changed.image = "busybox"
    changed.docker_args.append("--rm")
    assert (config.image, config.docker_args) == ("python:3.11", ["--init"])


def test_deployment_has_what_was_changed_in_its_config():
    config = DummyDeploymentConfig(outputs=["a"]).model_copy(deep=True)
    config.outputs.append("b")
    with config.get_deployment() as deployment:
        assert [observation.output for observation in deployment.runtime.run_in_session_outputs] == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "deployment_class"),
    [
        (LocalDeploymentConfig(), LocalDeployment),
        (RemoteDeploymentConfig(), RemoteDeployment),
        (DummyDeploymentConfig(), DummyDeployment),
    ],
)
def test_get_deployment(config, deployment_class):
    assert type(get_deployment(config)) is deployment_class
    assert type(config.get_deployment()) is deployment_class


@pytest.mark.parametrize(
    ("config", "package"),
    [
        (DockerDeploymentConfig(), "docker"),
        (ModalDeploymentConfig(), "modal"),
        (FargateDeploymentConfig(), "boto3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_client_library_that_is_not_installed(config, package, monkeypatch):
    backend = (f"swerex.deployment.{config.type}", "swerex.utils.aws")
    for name in [name for name in sys.modules if name.startswith(backend)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"needs the package '{package}': pip install 'swerex\[{config.type}\]'"
    ):
        get_deployment(config)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (FargateDeploymentConfig(fargate_args={"tags": [{"key": "a", "value": "b"}]}), "fargate_args"),
        (ModalDeploymentConfig(modal_sandbox_kwargs={"tags": {"a": "b"}}), "modal_sandbox_kwargs"),
    ],
)
def test_later_changes_of_a_config_have_no_effect(config, field):
    deployment = config.get_deployment()
    before = copy.deepcopy(getattr(config, field))
    getattr(config, field)["tags"].clear()
    assert getattr(deployment._config, field) == before
