"""What client and server agree on: the names of headers, and how an exception crosses."""

from __future__ import annotations

import builtins
import json
import logging
import traceback
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

import swerex.exceptions

__all__ = [
    "ACKNOWLEDGE_HEADER",
    "API_KEY_HEADER",
    "EXCEPTION_STATUS",
    "INSTANCE_HEADER",
    "OUTPUT_HEADER",
    "REQUEST_ID_HEADER",
    "TEXT",
    "decode_exception",
    "encode_exception",
    "encode_model",
]

API_KEY_HEADER = "X-API-Key"
REQUEST_ID_HEADER = "X-Request-ID"
"""Names a request. The server runs it once, however often it comes."""
ACKNOWLEDGE_HEADER = "X-Request-Acknowledge"
"""The ids, separated by commas, whose answers have arrived and need not be kept."""
INSTANCE_HEADER = "X-Swerex-Instance"
"""In an answer: this is a server that knows these headers, and which process it is. In a request: only this
process may answer, for another one can't know whether the request has run before."""
OUTPUT_HEADER = "X-Swerex-Output"
"""How many characters of the output have arrived, from a client that wants all of it while it is printed."""
TEXT = "text/plain"
"""The type of a file's content in UTF-8, between our own two ends: a large one takes its time as JSON."""
EXCEPTION_STATUS = 511
_LONGEST_PART = 100
"""How much of a text or of bytes that can't be coded crosses with the exception."""
_LONGEST_GAP = 64 << 20
"""Up to where, in bytes or characters, the place of that is told in the message too."""

_logger = logging.getLogger(__name__)

_OURS: dict[str, type[swerex.exceptions.SwerexException]] = {
    f"swerex.exceptions.{name}": getattr(swerex.exceptions, name) for name in swerex.exceptions.__all__
}
_BUILTIN: dict[str, type[Exception]] = {
    f"builtins.{name}": value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception)
}


def encode_model(model: BaseModel) -> bytes:
    """The body of a request, or of an answer."""
    try:
        return to_json(model)
    except PydanticSerializationError:
        # Lone surrogates, from the name or the content of a file that is no UTF-8.
        return json.dumps(dict(model)).encode()


def encode_exception(error: Exception) -> dict[str, Any]:
    """The body of an answer with the status `EXCEPTION_STATUS`."""
    kind = type(error)
    return {
        "swerexception": {
            "message": str(error),
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "traceback": "".join(traceback.format_exception(kind, error, error.__traceback__)),
            "extra_info": _extra_info(error),
        }
    }


def _extra_info(error: Exception) -> dict[str, Any]:
    if isinstance(error, swerex.exceptions.SwerexException):
        return error.extra_info
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        return {
            "errno": error.errno,
            "strerror": error.strerror,
            "filename": name if isinstance(name, str) else None,
        }
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        # Its message names what stands there.
        part = error.object[error.start : error.end][:_LONGEST_PART]
        return {
            "encoding": error.encoding,
            "start": error.start,
            "end": error.end,
            "reason": error.reason,
            "object": part.hex() if isinstance(part, bytes) else part,
        }
    return {}


def decode_exception(body: object) -> Exception:
    """The exception that such a body describes.

    The body is not trusted: its class name only selects from a fixed table, and anything that does not fit
    becomes a `SwerexException`.
    """
    found = body.get("swerexception") if isinstance(body, dict) else None
    found = found if isinstance(found, dict) else {}
    message, path, info = (found.get(key) for key in ("message", "class_path", "extra_info"))
    if not isinstance(message, str):
        message = f"The server reported an error without a message: {body!r:.500}"
    path = path if isinstance(path, str) else ""
    info = info if isinstance(info, dict) else {}
    if isinstance(trace := found.get("traceback"), str):
        _logger.debug("Traceback in the sandbox:\n%s", trace)
    if path in _OURS:
        return _OURS[path](message, extra_info=info)
    if path in _BUILTIN:
        return _builtin(_BUILTIN[path], message, info)
    return swerex.exceptions.SwerexException(f"{path or 'unknown error'}: {message}", extra_info=info)


def _builtin(kind: type[Exception], message: str, info: dict[str, Any]) -> Exception:
    try:
        if issubclass(kind, OSError) and isinstance(info.get("errno"), int):
            return kind(info["errno"], info.get("strerror") or message, info.get("filename"))
        if issubclass(kind, UnicodeDecodeError | UnicodeEncodeError):
            encoding, reason = str(info.get("encoding", "unknown")), str(info.get("reason", message))
            start, end = int(info.get("start", 0)), int(info.get("end", 0))
            part = str(info.get("object", ""))
            before = min(start, _LONGEST_GAP)
            if issubclass(kind, UnicodeDecodeError):
                return kind(encoding, bytes(before) + bytes.fromhex(part), start, end, reason)
            return kind(encoding, " " * before + part, start, end, reason)
        return kind(message)
    except (TypeError, ValueError, OverflowError):
        # Some want other arguments than a message.
        return swerex.exceptions.SwerexException(f"{kind.__name__}: {message}", extra_info=info)
