"""Run one program to its end, as ``subprocess.run`` does, and leave nothing of it behind on a timeout."""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import subprocess
import sys
import termios
import time

from swerex.runtime.abstract import Command, CommandResponse, OnOutput
from swerex.runtime.failures import failed, timed_out
from swerex.runtime.memory import OUT_OF_MEMORY, oom_kills
from swerex.runtime.process import ExitWatch, exit_code, inherited_environment, kill_all, new_mark, spawn

__all__ = ["execute"]


def execute(
    command: Command, running: dict[subprocess.Popen[bytes], int], on_output: OnOutput | None = None
) -> CommandResponse:
    """As `AbstractRuntime.execute`. The program is in `running`, with its mark, for as long as it runs.

    It returns when the program itself has ended. What that left running in the background goes on, and what
    it prints from then on is lost.
    """
    deadline = None if command.timeout is None else time.monotonic() + command.timeout
    if command.cwd is not None and not os.path.isdir(command.cwd):
        missing = not os.path.exists(command.cwd)
        raise (FileNotFoundError if missing else NotADirectoryError)(
            errno.ENOENT if missing else errno.ENOTDIR, "The working directory is no folder", command.cwd
        )
    mark = new_mark()
    kills = oom_kills()
    process = spawn(
        command.command,
        mark=mark,
        shell=command.shell,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if command.merge_output_streams else subprocess.PIPE,
        env={**inherited_environment(), **(command.env or {})},
        cwd=command.cwd,
    )
    streams = {stream.fileno(): bytearray() for stream in (process.stdout, process.stderr) if stream}
    running[process] = mark
    watch = ExitWatch(process)
    try:
        in_time = _read_until_exit(watch, streams, deadline, on_output)
        if not in_time:
            kill_all(process, mark)
    except BaseException:
        kill_all(process, mark)
        raise
    finally:
        del running[process]
        watch.close()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
    output = [part.decode(errors="backslashreplace") for part in streams.values()]
    stdout, stderr = output[0], output[1] if len(output) > 1 else ""
    what = f"Command {command.command!r}"
    info: dict[str, object] = {"output": stdout + stderr, "stdout": stdout, "stderr": stderr}
    if not in_time:
        raise timed_out(what, command.timeout, "was killed.", info)
    status = exit_code(process.returncode)
    if command.check and status != 0:
        why = OUT_OF_MEMORY if oom_kills() > kills else ""
        raise failed(what, status, command.error_msg, why, info)
    return CommandResponse(stdout=stdout, stderr=stderr, exit_code=status)


_PIECE = 1 << 16


def _read_until_exit(
    watch: ExitWatch, streams: dict[int, bytearray], deadline: float | None, on_output: OnOutput | None
) -> bool:
    """Collect what the program prints until it ends; False if it did not within its time."""
    decoders = {fd: codecs.getincrementaldecoder("utf-8")("backslashreplace") for fd in streams}
    for fd in streams:
        os.set_blocking(fd, False)
        watch.register(fd)
    ended = False
    while not ended:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return False
        ready, ended = watch.poll(remaining)
        # When the program has ended, all that it wrote is in the pipes, and one more read each gets it.
        for fd in list(streams) if ended else ready:
            try:
                data = os.read(fd, max(_PIECE, _available(fd)))
            except BlockingIOError:
                data = b""
            if not data and not ended:
                watch.unregister(fd)
            streams[fd] += data
            if on_output and (text := decoders[fd].decode(data, final=ended)):
                on_output(text)
    return True


def _available(fd: int) -> int:
    """How many bytes can be read at once: a program may have made its pipe larger."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
