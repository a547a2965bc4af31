"""What AWS's errors mean: whether to try again, and what to tell the user."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from swerex.exceptions import DeploymentStartupError

__all__ = [
    "AWS_ERRORS",
    "error_code",
    "explain_error",
    "is_missing",
    "is_transient",
    "is_unsettled",
    "repeat_while",
    "typed_errors",
]

T = TypeVar("T")

AWS_ERRORS = (BotoCoreError, ClientError)
"""The errors of boto3: what it met itself, and what AWS has answered."""

_THROTTLED = (
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
)
_UNSETTLED = (
    # Somebody else makes or changes the same at this moment.
    "ConcurrentModification",
    "EntityAlreadyExists",
    "InvalidGroup.Duplicate",
    "DefaultSubnetAlreadyExistsInAvailabilityZone",
    "OperationAbortedException",
    "ResourceInUseException",
    "UpdateInProgressException",
    # What was made just now is not known everywhere.
    "InvalidGroup.NotFound",
    "InvalidSubnetID.NotFound",
    "NoSuchEntity",
)
_MISSING = re.compile(r"not found|not exist|inactive", re.IGNORECASE)


def error_code(error: Exception) -> str:
    """The code of an error with which AWS has answered; empty for all others."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later: the rate is limited, AWS fails, the network breaks.

    If it is not the rate, the call may have been served.
    """
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or error_code(error) in _THROTTLED
    return isinstance(error, (ConnectionError, HTTPClientError))


def is_unsettled(error: Exception) -> bool:
    """Whether the error may come from a change that is under way, or has not arrived everywhere in AWS."""
    message = str(error)
    return (
        error_code(error) in _UNSETTLED
        or _is_about_role(error)
        or (error_code(error) == "ClientException" and "Too many concurrent attempts" in message)
    )


def is_missing(error: Exception) -> bool:
    """Whether ECS says that a task, or something that it needs, is not there."""
    kinds = ("InvalidParameterException", "ClientException")
    return error_code(error) == "ClusterNotFoundException" or (
        error_code(error) in kinds and _MISSING.search(str(error)) is not None
    )


def repeat_while(passes: Callable[[Exception], bool], call: Callable[[], T], seconds: float) -> T:
    """What `call` returns. As long as its error `passes` it is repeated, for so many seconds."""
    deadline = time.monotonic() + seconds
    pause = 0.5
    while True:
        try:
            return call()
        except AWS_ERRORS as error:
            if not passes(error) or time.monotonic() + pause > deadline:
                raise
        # Not at the same time again as those who were in each other's way.
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 5.0)


@contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn errors of boto3 into a `DeploymentStartupError` that says `what` could not be done."""
    try:
        yield
    except AWS_ERRORS as error:
        raise DeploymentStartupError(f"{what}: {explain_error(error)}") from error


def explain_error(error: Exception) -> str:
    """The error's message, and what to do about it."""
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind):
            return f"{error}\n{advice}"
    code = error_code(error)
    for codes, advice in _ADVICE_BY_CODE.items():
        if code in codes:
            return f"{error}\n{advice}"
    return f"{error}\n{_ROLE_ADVICE}" if _is_about_role(error) else str(error)


def _is_about_role(error: Exception) -> bool:
    # "Role is not valid", "ECS was unable to assume the role", "... the service linked role".
    message = str(error).lower()
    return (
        error_code(error) in ("ClientException", "InvalidParameterException")
        and "role" in message
        and ("assume" in message or "not valid" in message)
    )


_CREDENTIALS_ADVICE = (
    "Give credentials as for every program that uses AWS: `aws configure`, a profile in AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)
_ADVICE: dict[type[Exception], str] = {
    NoRegionError: "Set `region`, or the variable AWS_DEFAULT_REGION, or a region in ~/.aws/config.",
    NoCredentialsError: _CREDENTIALS_ADVICE,
    PartialCredentialsError: _CREDENTIALS_ADVICE,
    CredentialRetrievalError: _CREDENTIALS_ADVICE,
    ProfileNotFound: _CREDENTIALS_ADVICE,
    EndpointConnectionError: "Check the name of the region, AWS_ENDPOINT_URL, and the network.",
}
_ADVICE_BY_CODE: dict[tuple[str, ...], str] = {
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthFailure",
    ): "AWS does not accept the credentials; they are wrong or have expired. " + _CREDENTIALS_ADVICE,
    (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
    ): "The credentials lack a permission; the documentation of the Fargate deployment lists all it needs.",
    ("NoSuchBucket",): "Make the bucket that `bundle_bucket` names, in the same region.",
}
_ROLE_ADVICE = (
    "Check that the role is there, that ecs-tasks.amazonaws.com may assume it, and that the credentials have "
    "the permission iam:PassRole for it."
)
