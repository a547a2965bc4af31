"""Modal's protocol: what the stand-in answers to each request of the `modal` library."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

if TYPE_CHECKING:
    from tests.cloud.modal_cloud import ModalCloud, Sandbox

__all__ = ["ResetError", "make_service"]

Handler = Callable[["ModalCloud", Any], Awaitable[Message]]
Result = api_pb2.GenericResult


class ResetError(Exception):
    """The stream of a request is to be reset, without an answer."""


def make_service(cloud: ModalCloud) -> ModalClientBase:
    """A service of gRPC. Requests that the tests need no answer to are unimplemented."""
    names = ModalClientBase.__abstractmethods__
    methods = {name: _method(name, _handlers.get(name)) for name in names}
    return type("Service", (ModalClientBase,), {"cloud": cloud, **methods})()  # type: ignore[no-any-return]


def _method(name: str, handler: Handler | None) -> Callable[..., Awaitable[None]]:
    async def serve(self: Any, stream: Stream[Any, Any]) -> None:
        if handler is None:
            raise GRPCError(Status.UNIMPLEMENTED, f"The stand-in does not know {name}")
        request = await stream.recv_message()
        metadata = stream.metadata or {}
        cloud: ModalCloud = self.cloud
        if metadata.get("x-modal-token-id") != cloud.token_id:
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed")
        try:
            cloud.enter(name)
            # The library repeats a request under one key, and Modal answers as it did before.
            key = str(metadata.get("x-idempotency-key", ""))
            answers = cloud.answers if name.startswith("SandboxCreate") else {}
            if key not in answers:
                answers[key] = await handler(cloud, request)
            cloud.leave(name)
            await stream.send_message(answers[key])
        except ResetError:
            await stream.cancel()

    return serve


_handlers: dict[str, Handler] = {}


def _rpc(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _handlers.update(dict.fromkeys(names, handler))
        return handler

    return register


@_rpc("ClientHello")
async def _hello(cloud: ModalCloud, request: Any) -> Message:
    return api_pb2.ClientHelloResponse()


@_rpc("AuthTokenGet")
async def _auth_token(cloud: ModalCloud, request: Any) -> Message:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode().rstrip("=")
    return api_pb2.AuthTokenGetResponse(token=f"e30.{claims}.signature")


@_rpc("EnvironmentGetOrCreate")
async def _environment(cloud: ModalCloud, request: Any) -> Message:
    settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
    metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
    return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)


@_rpc("AppGetOrCreate")
async def _app(cloud: ModalCloud, request: api_pb2.AppGetOrCreateRequest) -> Message:
    app_id = cloud.apps.setdefault(request.app_name, cloud.new_id("ap"))
    metadata = api_pb2.AppHandleMetadata(app_id=app_id, description=request.app_name)
    return api_pb2.AppGetOrCreateResponse(app_id=app_id, handle_metadata=metadata)


@_rpc("SecretGetOrCreate")
async def _secret(cloud: ModalCloud, request: api_pb2.SecretGetOrCreateRequest) -> Message:
    secret_id = cloud.new_id("st")
    cloud.secrets[secret_id] = dict(request.env_dict)
    metadata = api_pb2.SecretMetadata(keys=list(request.env_dict))
    return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)


@_rpc("MountBatchedCheckExistence")
async def _check_files(cloud: ModalCloud, request: api_pb2.MountBatchedCheckExistenceRequest) -> Message:
    missing = [key for key in request.sha256_hex_hashes if not (cloud.files / key).exists()]
    return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)


@_rpc("BlobCreate")
async def _blob(cloud: ModalCloud, request: api_pb2.BlobCreateRequest) -> Message:
    blob_id = cloud.new_id("bl")
    urls = api_pb2.UploadUrlList(items=[f"{cloud.blob_url}/{blob_id}"])
    return api_pb2.BlobCreateResponse(blob_ids=[blob_id], upload_urls=urls)


@_rpc("MountPutFile")
async def _put_file(cloud: ModalCloud, request: api_pb2.MountPutFileRequest) -> Message:
    data = cloud.blobs.pop(request.data_blob_id) if request.data_blob_id else request.data
    assert hashlib.sha256(data).hexdigest() == request.sha256_hex
    (cloud.files / request.sha256_hex).write_bytes(data)
    return api_pb2.MountPutFileResponse(exists=True)


@_rpc("MountGetOrCreate")
async def _mount(cloud: ModalCloud, request: api_pb2.MountGetOrCreateRequest) -> Message:
    mount_id = cloud.add_mount(request.files)
    metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=hashlib.sha256().hexdigest())
    return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)


@_rpc("ImageGetOrCreate")
async def _image(cloud: ModalCloud, request: api_pb2.ImageGetOrCreateRequest) -> Message:
    content = request.image.SerializeToString(deterministic=True)
    image_id = "im-" + hashlib.sha256(content).hexdigest()[:22]
    known = image_id in cloud.images
    cloud.images[image_id] = request.image
    # Of one that is not built yet, the library asks for the log until it is.
    result = Result(status=Result.GENERIC_STATUS_SUCCESS) if known and not cloud.build_error else None
    return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=result)


@_rpc("ImageJoinStreaming")
async def _build(cloud: ModalCloud, request: api_pb2.ImageJoinStreamingRequest) -> Message:
    await asyncio.sleep(cloud.build_seconds)
    error = cloud.build_error or await asyncio.to_thread(cloud.build, request.image_id)
    status = Result.GENERIC_STATUS_FAILURE if error else Result.GENERIC_STATUS_SUCCESS
    return api_pb2.ImageJoinStreamingResponse(result=Result(status=status, exception=error), eof=True)


@_rpc("SandboxCreate")
async def _create(cloud: ModalCloud, request: api_pb2.SandboxCreateRequest) -> Message:
    env = {}
    for secret_id in request.definition.secret_ids:
        env.update(cloud.secrets[secret_id])
    sandbox = await cloud.create(request.app_id, request.definition, env, request.tags, version=1)
    return api_pb2.SandboxCreateResponse(sandbox_id=sandbox.id, metadata=_metadata(sandbox))


@_rpc("SandboxCreateV2")
async def _create_v2(cloud: ModalCloud, request: api_pb2.SandboxCreateV2Request) -> Message:
    env: dict[str, str] = {}
    for source in request.secret_sources:
        env.update(source.env.contents or cloud.secrets[source.secret_id])
    sandbox = await cloud.create(request.app_id, request.definition, env, request.tags, version=2)
    return api_pb2.SandboxCreateV2Response(
        sandbox_id=sandbox.id, task_id=sandbox.task_id, metadata=_metadata(sandbox)
    )


@_rpc("SandboxGetTaskId", "SandboxGetTaskIdV2")
async def _task_id(cloud: ModalCloud, request: api_pb2.SandboxGetTaskIdRequest) -> Message:
    return api_pb2.SandboxGetTaskIdResponse(task_id=cloud.sandbox(request.sandbox_id).task_id)


@_rpc("SandboxWait", "SandboxWaitV2")
async def _wait(cloud: ModalCloud, request: api_pb2.SandboxWaitRequest) -> Message:
    sandbox = cloud.sandbox(request.sandbox_id)
    end = time.monotonic() + request.timeout
    while (result := sandbox.result()) is None and time.monotonic() < end:
        await asyncio.sleep(0.02)
    return api_pb2.SandboxWaitResponse(result=result, metadata=_metadata(sandbox))


@_rpc("SandboxGetTunnels", "SandboxGetTunnelsV2")
async def _tunnels(cloud: ModalCloud, request: api_pb2.SandboxGetTunnelsRequest) -> Message:
    sandbox = cloud.sandbox(request.sandbox_id)
    late = sandbox.created_at + cloud.tunnel_delay - time.time()
    await asyncio.sleep(max(0.0, min(late, request.timeout)))
    if late > request.timeout:
        return api_pb2.SandboxGetTunnelsResponse(result=Result(status=Result.GENERIC_STATUS_TIMEOUT))
    tunnels = [
        api_pb2.TunnelData(host=tunnel.host, port=tunnel.port, container_port=port)
        for port, tunnel in sandbox.tunnels.items()
    ]
    return api_pb2.SandboxGetTunnelsResponse(tunnels=tunnels)


@_rpc("SandboxList", "SandboxListV2")
async def _list(cloud: ModalCloud, request: api_pb2.SandboxListRequest) -> Message:
    wanted = {(tag.tag_name, tag.tag_value) for tag in request.tags}
    found = [
        api_pb2.SandboxInfo(id=sandbox.id, created_at=sandbox.created_at, metadata=_metadata(sandbox))
        for sandbox in cloud.sandboxes.values()
        if sandbox.app_id == request.app_id
        and wanted <= set(sandbox.tags.items())
        and sandbox.result() is None
        and sandbox.created_at < (request.before_timestamp or float("inf"))
    ]
    # Newest first, by pages; the next page begins after the last of this.
    found.sort(key=lambda info: info.created_at, reverse=True)
    return api_pb2.SandboxListResponse(sandboxes=found[:10])


@_rpc("SandboxTagsGet", "SandboxTagsGetV2")
async def _tags(cloud: ModalCloud, request: api_pb2.SandboxTagsGetRequest) -> Message:
    tags = cloud.sandbox(request.sandbox_id).tags.items()
    return api_pb2.SandboxTagsGetResponse(
        tags=[api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in tags]
    )


@_rpc("SandboxTerminate", "SandboxTerminateV2")
async def _terminate(cloud: ModalCloud, request: api_pb2.SandboxTerminateRequest) -> Message:
    sandbox = cloud.sandbox(request.sandbox_id)
    before = sandbox.result()
    await sandbox.end(Result.GENERIC_STATUS_TERMINATED)
    return api_pb2.SandboxTerminateResponse(existing_result=before)


@_rpc("AppFetchLogs")
async def _logs(cloud: ModalCloud, request: api_pb2.AppFetchLogsRequest) -> Message:
    sandbox = next(found for found in cloud.sandboxes.values() if found.task_id == request.task_id)
    late = time.time() < sandbox.created_at + cloud.log_delay
    log = "" if late else await asyncio.to_thread(sandbox.place.log)
    lines = log.splitlines(keepends=True)[-request.limit :]
    items = [api_pb2.TaskLogs(data=line, timestamp=sandbox.created_at) for line in lines]
    return api_pb2.AppFetchLogsResponse(batches=[api_pb2.TaskLogsBatch(items=items)])


def _metadata(sandbox: Sandbox) -> api_pb2.SandboxHandleMetadata:
    return api_pb2.SandboxHandleMetadata(app_id=sandbox.app_id, result=sandbox.result())
