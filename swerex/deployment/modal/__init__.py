"""Sandboxes on Modal."""

from swerex.deployment.config import ModalDeploymentConfig
from swerex.deployment.modal.deployment import ModalDeployment

__all__ = ["ModalDeployment", "ModalDeploymentConfig"]
