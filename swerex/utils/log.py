"""Loggers that print to standard error in colour, and with the name of the thread."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.logging import RichHandler

__all__ = ["get_logger", "register_thread_name"]

_LEVEL_VARIABLE = "SWE_REX_LOG_STREAM_LEVEL"

_lock = threading.Lock()
_this_thread = threading.local()


def get_logger(name: str, *, emoji: str = "🦖") -> logging.Logger:
    """The logger `name`, which prints to standard error and does not propagate.

    Its level is that of the environment variable SWE_REX_LOG_STREAM_LEVEL, a name or a number, or else INFO.
    A logger that has handlers, or a level, keeps them.
    """
    logger = logging.getLogger(name)
    with _lock:
        if not logger.handlers:
            logger.addHandler(_StreamHandler(emoji))
            logger.propagate = False
            if logger.level == logging.NOTSET:
                logger.setLevel(_level_from_environment())
    return logger


def register_thread_name(name: str) -> None:
    """Show `name` in what the current thread logs, in place of the thread's own name."""
    _this_thread.name = name


class _StreamHandler(logging.Handler):
    """Hands records on to rich, which is slow to import and so is imported for the first of them."""

    def __init__(self, emoji: str) -> None:
        super().__init__()
        self._emoji = emoji

    def emit(self, record: logging.LogRecord) -> None:
        self._rich.emit(record)

    @cached_property
    def _rich(self) -> RichHandler:
        from rich.console import Console, ConsoleRenderable
        from rich.logging import RichHandler
        from rich.text import Text

        emoji = self._emoji

        class Handler(RichHandler):
            def get_level_text(self, record: logging.LogRecord) -> Text:
                style = f"logging.level.{record.levelname.lower()}"
                return Text.styled(f"{emoji} {record.levelname}".ljust(11), style)

            def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
                thread = _shown_thread_name()
                return super().render_message(record, f"{thread}: {message}" if thread else message)

        return Handler(console=Console(stderr=True), show_time=False, show_path=False)


def _shown_thread_name() -> str:
    """The registered name of the current thread, else its own; nothing for the main thread."""
    thread = threading.current_thread()
    default = "" if thread is threading.main_thread() else thread.name
    return str(getattr(_this_thread, "name", default))


def _level_from_environment() -> int:
    value = os.environ.get(_LEVEL_VARIABLE, "").strip()
    level = int(value) if value.isdecimal() else logging.getLevelName(value.upper() or "INFO")
    if isinstance(level, int):
        return level
    warnings.warn(
        f"{_LEVEL_VARIABLE}={value!r} is no log level; INFO is used. "
        "Give a name such as DEBUG or WARNING, or a number.",
        RuntimeWarning,
        stacklevel=3,
    )
    return logging.INFO
