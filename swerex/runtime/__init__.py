"""Runtimes run commands: on this machine, through a server, or, the dummy, not at all."""
