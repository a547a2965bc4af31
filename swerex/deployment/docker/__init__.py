"""Sandboxes that are containers, of Docker or Podman."""

from swerex.deployment.config import DockerDeploymentConfig
from swerex.deployment.docker.deployment import DockerDeployment
from swerex.deployment.docker.sandboxes import Sandbox, list_sandboxes, prune

__all__ = ["DockerDeployment", "DockerDeploymentConfig", "Sandbox", "list_sandboxes", "prune"]
