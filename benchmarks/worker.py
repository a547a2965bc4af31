"""One side of the comparison: runs pieces of work with whichever ``swerex`` its interpreter imports.

It reads requests from standard input, one JSON object a line: ``{"work": NAME, "count": N, ...}``, and
answers each with one line: ``{"samples": [...]}`` or ``{"error": "..."}``. Samples are seconds, unless the
work says otherwise. The same code drives both implementations: where a call of theirs returns a coroutine,
it is run to its end, and where we would use threads, theirs are gathered on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import inspect
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from swerex.runtime.abstract import (
    AbstractRuntime,
    BashAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.local import LocalRuntime
from swerex.runtime.remote import RemoteRuntime

_IS_ASYNC = inspect.iscoroutinefunction(RemoteRuntime.is_alive)
_LINE = "0123456789" * 8
_MB = 1_000_000


class Server:
    """A server process of the implementation at hand, on a free port of the loopback."""

    def __init__(self) -> None:
        self.token = secrets.token_hex()
        command = [sys.executable, "-m", "swerex", "--host", "127.0.0.1", "--port", "0"]
        if _IS_ASYNC:
            command += ["--auth-token", self.token]
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "SWEREX_AUTH_TOKEN": self.token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self._read_port()
        threading.Thread(target=self._drain, daemon=True).start()
        while not self._answers():
            time.sleep(0.001)
        self.startup = time.perf_counter() - begin
        """Seconds from the start of the process to its first answer."""

    def _read_port(self) -> int:
        assert self.process.stdout is not None
        log = []
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
            log.append(line)
        raise RuntimeError(f"The server did not start: {''.join(log)}")

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            pass

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/is_alive", headers={"X-API-Key": self.token})
            return connection.getresponse().status == 200
        except ConnectionError:
            return False
        finally:
            connection.close()

    def memory(self) -> float:
        """Resident memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024 / _MB

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Worker:
    """A local runtime, a server with a client, and the pieces of work, one method each."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = Server()
        self.runtimes: dict[str, AbstractRuntime] = {
            "local": LocalRuntime(),
            "server": RemoteRuntime(
                auth_token=self.server.token, host="http://127.0.0.1", port=self.server.port, timeout=60
            ),
        }
        for where in self.runtimes:
            self.create(where, "default")

    def close(self) -> None:
        for runtime in self.runtimes.values():
            self.wait(runtime.close())
        self.server.stop()

    def wait(self, result: Any) -> Any:
        """The result of a call, whether it is one or has still to be awaited."""
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def together(self, calls: list[Callable[[], Any]]) -> float:
        """Seconds for all calls to end, when they begin at once."""
        begin = time.perf_counter()
        if _IS_ASYNC:

            async def gather() -> None:
                await asyncio.gather(*(call() for call in calls))

            self.loop.run_until_complete(gather())
        else:
            with ThreadPoolExecutor(len(calls)) as pool:
                for result in [pool.submit(call) for call in calls]:
                    result.result()
        return time.perf_counter() - begin

    def timed(self, call: Callable[[], Any], count: int) -> list[float]:
        samples = []
        for _ in range(count):
            begin = time.perf_counter()
            self.wait(call())
            samples.append(time.perf_counter() - begin)
        return samples

    def create(self, where: str, name: str) -> None:
        self.wait(self.runtimes[where].create_session(CreateBashSessionRequest(session=name)))

    def close_session(self, where: str, name: str) -> None:
        self.wait(self.runtimes[where].close_session(CloseBashSessionRequest(session=name)))

    @contextlib.contextmanager
    def sessions(self, where: str, number: int) -> Iterator[list[str]]:
        names = [f"{where}-{secrets.token_hex(4)}" for _ in range(number)]
        for name in names:
            self.create(where, name)
        try:
            yield names
        finally:
            for name in names:
                self.close_session(where, name)

    def run(self, where: str, command: str, session: str = "default") -> Any:
        return self.runtimes[where].run_in_session(BashAction(command=command, session=session))

    # The pieces of work.

    def run_true(self, count: int, where: str, command: str = "true") -> list[float]:
        return self.timed(lambda: self.run(where, command), count)

    def is_alive(self, count: int) -> list[float]:
        return self.timed(self.runtimes["server"].is_alive, count)

    def run_true_by_is_alive(self, count: int) -> list[float]:
        """How many times as long as `is_alive` a command takes; the two are run in turns."""
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(count):
            samples[0].extend(self.run_true(1, "server"))
            samples[1].extend(self.is_alive(1))
        return [sorted(samples[0])[count // 2] / sorted(samples[1])[count // 2]]

    def execute_true(self, count: int) -> list[float]:
        command = Command(command=["true"])
        return self.timed(lambda: self.runtimes["server"].execute(command), count)

    def create_session(self, count: int, where: str) -> list[float]:
        samples = []
        for _ in range(count):
            name = f"new-{secrets.token_hex(4)}"
            begin = time.perf_counter()
            self.create(where, name)
            samples.append(time.perf_counter() - begin)
            self.close_session(where, name)
        return samples

    def output(self, count: int, where: str, megabytes: int) -> list[float]:
        samples = []
        for _ in range(count):
            begin = time.perf_counter()
            printed = self.wait(self.run(where, f"yes {_LINE} | head -c {megabytes * _MB}")).output
            samples.append(time.perf_counter() - begin)
            # The other one adds line breaks of its own.
            if len(printed.replace("\r\n", "\n").strip()) < megabytes * _MB - 2:
                raise AssertionError(f"{len(printed)} characters of {megabytes * _MB} arrived")
        return samples

    def sleep_together(self, count: int) -> list[float]:
        with self.sessions("server", 8) as names:
            calls = [lambda name=name: self.run("server", "sleep 1", name) for name in names]
            return [self.together(calls) for _ in range(count)]

    def is_alive_while_busy(self, count: int, sessions: int) -> list[float]:
        """`is_alive` while each of so many sessions runs ``sleep 5``."""
        with self.sessions("server", sessions) as names:
            calls = [lambda name=name: self.run("server", "sleep 5", name) for name in names]
            runtime = self.runtimes["server"]
            if _IS_ASYNC:
                probe = _beside(calls, lambda: runtime.is_alive(timeout=60), count)
                return self.loop.run_until_complete(probe)
            with ThreadPoolExecutor(len(calls)) as pool:
                running = [pool.submit(call) for call in calls]
                time.sleep(1.5)  # until all of them are running
                samples = self.timed(lambda: runtime.is_alive(timeout=60), count)
                if any(call.done() for call in running):
                    raise AssertionError("a session was done before the last sample")
            return samples

    def commands_per_second(self, count: int, where: str) -> list[float]:
        """Commands per second, when each of eight sessions runs `count` of them."""

        def run_all(name: str) -> Any:
            if _IS_ASYNC:
                return run_all_async(name)
            for _ in range(count):
                self.run(where, "true", name)

        async def run_all_async(name: str) -> None:
            for _ in range(count):
                await self.run(where, "true", name)

        with self.sessions(where, 8) as names:
            return [8 * count / self.together([lambda name=name: run_all(name) for name in names])]

    def read_file(self, count: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_text(_text(10 * _MB))
            request = ReadFileRequest(path=str(path))
            return self.timed(lambda: self.runtimes["server"].read_file(request), count)

    def write_file(self, count: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            request = WriteFileRequest(path=str(Path(folder, "file")), content=_text(10 * _MB))
            return self.timed(lambda: self.runtimes["server"].write_file(request), count)

    def upload(self, count: int, files: int) -> list[float]:
        """100 MB, as one file or as a folder of several."""
        samples = []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            source.mkdir()
            for number in range(files):
                Path(source, f"{number}.bin").write_bytes(os.urandom(100 * _MB // files))
            for number in range(count):
                request = UploadRequest(
                    source_path=str(source if files > 1 else source / "0.bin"),
                    target_path=str(Path(folder, f"target-{number}")),
                )
                samples += self.timed(lambda request=request: self.runtimes["server"].upload(request), 1)
        return samples

    def startup(self, count: int) -> list[float]:
        return [server.startup for server in self._servers(count)]

    def memory(self, count: int) -> list[float]:
        """Resident memory of a server after its first answer, in MB."""
        return [server.memory() for server in self._servers(count)]

    def _servers(self, count: int) -> Iterator[Server]:
        for _ in range(count):
            server = Server()
            try:
                yield server
            finally:
                server.stop()


async def _beside(calls: list[Callable[[], Any]], probe: Callable[[], Any], count: int) -> list[float]:
    """Time the probe while the calls run; the other implementation's way to have both at once."""
    running = [asyncio.ensure_future(call()) for call in calls]
    await asyncio.sleep(0.5)
    samples = []
    for _ in range(count):
        begin = time.perf_counter()
        await probe()
        samples.append(time.perf_counter() - begin)
    await asyncio.gather(*running)
    return samples


def _text(size: int) -> str:
    line = _LINE + "\n"
    return (line * (size // len(line) + 1))[:size]


def main() -> None:
    # The other implementation prints while it works; the answers must stay apart from that.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            work = getattr(worker, request.pop("work"))
            try:
                answer = {"samples": work(**request)}
            except Exception:  # whatever goes wrong there, one row of the table is lost and no more
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers)
    finally:
        worker.close()


if __name__ == "__main__":
    main()
