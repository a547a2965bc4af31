"""Sandboxes that are tasks of AWS Fargate."""

from swerex.deployment.config import FargateDeploymentConfig
from swerex.deployment.fargate.deployment import FargateDeployment

__all__ = ["FargateDeployment", "FargateDeploymentConfig"]
