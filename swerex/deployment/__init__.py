"""Deployments get a place to run commands in, watch it, and remove it. They know nothing of commands."""

from swerex.deployment.config import get_deployment

__all__ = ["get_deployment"]
