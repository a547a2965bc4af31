from __future__ import annotations

from swerex.deployment.dummy import DummyDeployment
from swerex.deployment.hooks.abstract import CombinedDeploymentHook, DeploymentHook
from swerex.deployment.hooks.status import SetStatusDeploymentHook


def test_plain_hook_ignores_steps():
    assert DeploymentHook().on_custom_step("pulling") is None


def test_combined_hook_calls_all_in_order():
    heard = []
    hook = CombinedDeploymentHook([SetStatusDeploymentHook("a", lambda *args: heard.append(args))])
    hook.add_hook(SetStatusDeploymentHook("b", lambda *args: heard.append(args)))
    hook.on_custom_step("pulling")
    assert heard == [("a", "pulling"), ("b", "pulling")]


def test_status_hook_hears_of_the_start():
    heard = []
    deployment = DummyDeployment()
    deployment.add_hook(SetStatusDeploymentHook("task 1", lambda *args: heard.append(args)))
    with deployment:
        assert heard == [("task 1", "Starting a runtime that does nothing")]
