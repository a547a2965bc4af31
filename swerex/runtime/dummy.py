"""A runtime that does nothing, for tests of what stands above it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from typing_extensions import Self

from swerex.exceptions import DummyOutputsExhaustedError
from swerex.runtime.abstract import (
    AbstractRuntime,
    Action,
    BashObservation,
    CloseBashSessionResponse,
    CloseResponse,
    CloseSessionRequest,
    CloseSessionResponse,
    Command,
    CommandResponse,
    CreateBashSessionResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    IsAliveResponse,
    Observation,
    OnOutput,
    ReadFileRequest,
    ReadFileResponse,
    UploadRequest,
    UploadResponse,
    WriteFileRequest,
    WriteFileResponse,
)
from swerex.runtime.config import DummyRuntimeConfig
from swerex.utils.log import get_logger

__all__ = ["DummyRuntime"]


class DummyRuntime(AbstractRuntime):
    """Answers every call at once and does nothing. Sessions need not exist.

    Keyword arguments are the fields of `DummyRuntimeConfig`.
    """

    def __init__(self, *, logger: logging.Logger | None = None, **kwargs: Any) -> None:
        outputs = DummyRuntimeConfig(**kwargs).outputs
        self.logger = logger or get_logger("rex-runtime")
        self.run_in_session_outputs: list[BashObservation] | BashObservation = (
            [BashObservation(output=output, exit_code=0) for output in outputs]
            if outputs
            else BashObservation(exit_code=0)
        )
        """What `run_in_session` takes its observations from: a list is used up, a single one is returned
        each time. May be set at any time."""
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: DummyRuntimeConfig) -> Self:
        return cls(**config.model_dump())

    def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        return IsAliveResponse(is_alive=True)

    def create_session(self, request: CreateSessionRequest) -> CreateSessionResponse:
        return CreateBashSessionResponse()

    def run_in_session(self, action: Action, *, on_output: OnOutput | None = None) -> Observation:
        """The next observation of `run_in_session_outputs`.

        Raises:
            DummyOutputsExhaustedError: there is none left.
        """
        observation = self._next_observation(action)
        if on_output and observation.output:
            on_output(observation.output)
        return observation

    def close_session(self, request: CloseSessionRequest) -> CloseSessionResponse:
        return CloseBashSessionResponse()

    def execute(self, command: Command, *, on_output: OnOutput | None = None) -> CommandResponse:
        return CommandResponse(exit_code=0)

    def read_file(self, request: ReadFileRequest) -> ReadFileResponse:
        return ReadFileResponse()

    def write_file(self, request: WriteFileRequest) -> WriteFileResponse:
        return WriteFileResponse()

    def upload(self, request: UploadRequest) -> UploadResponse:
        return UploadResponse()

    def close(self) -> CloseResponse:
        return CloseResponse()

    def _next_observation(self, action: Action) -> BashObservation:
        with self._lock:
            outputs = self.run_in_session_outputs
            if isinstance(outputs, BashObservation):
                return outputs.model_copy()
            if outputs:
                return outputs.pop(0)
        raise DummyOutputsExhaustedError(f"the dummy runtime has no output left for {action!r}: give it more")
