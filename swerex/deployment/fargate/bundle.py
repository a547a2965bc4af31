"""The server's bundle in a bucket of S3, from where a task fetches it by a presigned address."""

from __future__ import annotations

import hashlib
import math

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError

from swerex.deployment.fargate.bootstrap import bundle_script
from swerex.exceptions import DeploymentStartupError
from swerex.utils.aws import Aws
from swerex.utils.aws_errors import error_code

__all__ = ["BucketBundle"]

_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM64"}
_LONGEST_VALIDITY = 7 * 24 * 3600
"""Seconds for which AWS lets an address be good."""


class BucketBundle:
    """The bundle of this machine, as an object in a bucket."""

    def __init__(self, aws: Aws, bucket: str) -> None:
        # Only here, since making a bundle needs Linux.
        from swerex.deployment.bundle import get_bundle

        bundle = get_bundle()
        if bundle.machine not in _ARCHITECTURES:
            raise DeploymentStartupError(
                f"Fargate has no machines like this one ({bundle.machine}), so that a bundle made here can't "
                "run there. Leave out `bundle_bucket`, and use an image that has the server."
            )
        self.architecture = _ARCHITECTURES[bundle.machine]
        self._bundle = bundle
        self._aws = aws
        self._bucket = bucket
        self._digest = aws.once(("bundle", bucket, bundle.key), self._put)

    def script(self, port: int) -> str:
        return bundle_script(self._bundle.command, port)

    def env(self, seconds: float) -> dict[str, str]:
        """What `script` needs in its environment; the address is good for so many seconds."""
        url = self._aws.s3.generate_presigned_url(
            "get_object",
            Params={"Bucket": self._bucket, "Key": self._key(self._digest)},
            ExpiresIn=math.ceil(min(seconds, _LONGEST_VALIDITY)),
        )
        return {"SWEREX_BUNDLE_URL": url, "SWEREX_BUNDLE_SHA256": self._digest}

    def _put(self) -> str:
        """See to it that the bundle is in the bucket, and return the digest by which it is named."""
        path = self._bundle.tar_gz()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        key = self._key(digest.hexdigest())
        try:
            self._aws.s3.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            # Who may not list a bucket is told 403 of an object that is not there.
            if error_code(error) not in ("403", "404"):
                raise
            # In parts, and there only when all have arrived.
            try:
                self._aws.s3.upload_file(str(path), self._bucket, key)
            except S3UploadFailedError as error:
                # It hides what S3 has answered.
                raise (error.__context__ or error) from None
        return digest.hexdigest()

    def _key(self, digest: str) -> str:
        return f"swerex/bundle-{self._bundle.machine}-{digest}.tar.gz"
