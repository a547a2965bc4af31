"""Hooks hear how the start of a deployment goes on."""
