"""What an answer of the server means: the model in it, or the exception."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from swerex.exceptions import SandboxDiedError, SwerexException
from swerex.runtime.transport import HttpAnswer
from swerex.runtime.wire import EXCEPTION_STATUS, decode_exception

__all__ = ["output_so_far", "parse"]

_Response = TypeVar("_Response", bound=BaseModel)


def parse(answer: HttpAnswer, response_type: type[_Response]) -> _Response:
    """The model in an answer, or the exception in it."""
    if answer.status != 200:
        _raise_for(answer)
    try:
        return response_type.model_validate_json(answer.body)
    except ValidationError as error:
        # A lone surrogate, as the error handler "surrogateescape" makes, is JSON to others than pydantic.
        with suppress(ValidationError):
            return response_type.model_validate(_json(answer.body))
        raise SwerexException(f"The server's answer is no {response_type.__name__}: {error}") from None


def output_so_far(answer: HttpAnswer) -> str:
    """What the command had printed, in an answer that says "not yet"."""
    body = _json(answer.body)
    output = body.get("output") if isinstance(body, dict) else None
    return output if isinstance(output, str) else ""


def _raise_for(answer: HttpAnswer) -> NoReturn:
    body = _json(answer.body)
    if answer.status == EXCEPTION_STATUS:
        raise decode_exception(body)
    detail = body.get("detail") if isinstance(body, dict) else None
    said = detail if detail is not None else answer.body[:500].decode(errors="backslashreplace")
    if answer.status == 401:
        raise SwerexException(
            f"The server refuses the token (401): check `auth_token` and SWEREX_AUTH_TOKEN. {said}"
        )
    if answer.status == 409:
        raise SandboxDiedError(
            f"The server is not the one that was there before, and its sessions are lost: {said}"
        )
    raise SwerexException(f"The server answered with status {answer.status}: {said}")


def _json(body: bytes) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found
