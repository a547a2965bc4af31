"""Helpers that know nothing of sandboxes."""
