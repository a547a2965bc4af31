"""The other implementation's client against our server: ``python their_client.py PORT TOKEN FOLDER``.

Runs under the interpreter of the other environment. Prints one JSON object: for each scenario below what it
returned, or, under ``error``, the exception that it ended with.
"""

import asyncio
import json
import sys
import traceback
from pathlib import Path

from swerex import exceptions
from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.remote import RemoteRuntime

runtime: RemoteRuntime
folder: Path


async def run(command, session="default", **options):
    return await runtime.run_in_session(BashAction(command=command, session=session, **options))


async def new_session(name):
    await runtime.create_session(CreateBashSessionRequest(session=name))
    return name


async def caught(call):
    """The exception of a call, as JSON."""
    try:
        result = await call
    except Exception as error:
        return {
            "type": f"{type(error).__module__}.{type(error).__name__}",
            "is_theirs": isinstance(error, exceptions.SwerexException),
            "message": str(error),
            "extra_info": getattr(error, "extra_info", {}),
        }
    return {"type": None, "result": repr(result)}


async def is_alive():
    return (await runtime.is_alive(timeout=5)).is_alive


async def wrong_token():
    stranger = RemoteRuntime(auth_token="wrong", host="http://127.0.0.1", port=int(sys.argv[1]))
    alive = await stranger.is_alive(timeout=5)
    return {"alive": alive.is_alive, "execute": await caught(stranger.execute(Command(command=["true"])))}


async def session():
    opened = await runtime.create_session(CreateBashSessionRequest())
    first = await run("cd /; export A=1; f() { echo from f; }")
    second = await run('pwd; echo "$A"; f')
    third = await run("echo error >&2; (exit 3)", check="silent")
    fourth = await run("(exit 3)", check="ignore")
    closed = await runtime.close_session(CloseBashSessionRequest())
    return {
        "opened": opened.model_dump(),
        "outputs": [first.output, second.output, third.output],
        "exit_codes": [first.exit_code, second.exit_code, third.exit_code, fourth.exit_code],
        "closed": closed.model_dump(),
    }


async def startup_source():
    (folder / "rc").write_text("export FROM_RC=yes\n")
    request = CreateBashSessionRequest(session="rc", startup_source=[str(folder / "rc")])
    await runtime.create_session(request)
    return (await run("echo $FROM_RC", "rc")).output


async def session_exists():
    await new_session("twice")
    return await caught(runtime.create_session(CreateBashSessionRequest(session="twice")))


async def session_does_not_exist():
    return {
        "run": await caught(run("true", "nowhere")),
        "interrupt": await caught(runtime.run_in_session(BashInterruptAction(session="nowhere"))),
        "close": await caught(runtime.close_session(CloseBashSessionRequest(session="nowhere"))),
    }


async def non_zero_exit_code():
    name = await new_session("non-zero")
    error = await caught(run("echo the output; (exit 7)", name, check="raise", error_msg="what went wrong"))
    return {"error": error, "after": (await run("echo on", name)).output}


async def syntax_error():
    name = await new_session("syntax")
    error = await caught(run("for in", name))
    return {"error": error, "after": (await run("echo on", name)).output}


async def timeout_and_interrupt():
    name = await new_session("timeout")
    error = await caught(run("echo begun; sleep 60", name, timeout=0.5))
    busy = await caught(run("true", name))
    interrupted = await runtime.run_in_session(BashInterruptAction(session=name))
    return {
        "error": error,
        "busy": busy,
        "interrupted": interrupted.model_dump(),
        "after": (await run("echo on", name)).output,
    }


async def interrupt_while_it_runs():
    name = await new_session("interrupted")
    begun = folder / "begun"
    call = asyncio.ensure_future(run(f"touch {begun}; sleep 60", name, check="silent"))
    while not begun.exists():
        await asyncio.sleep(0.01)
    await runtime.run_in_session(BashInterruptAction(session=name))
    stopped = await asyncio.wait_for(call, 10)
    return {"exit_code": stopped.exit_code, "after": (await run("echo on", name)).output}


async def interactive_python():
    name = await new_session("python")
    outputs = []
    for command in ("python3 -q", "x = 20", "print(x + 1)", "for i in range(2): print('row', i)\n"):
        observation = await run(command, name, is_interactive_command=True, expect=[">>> "], timeout=20)
        outputs.append(observation.output)
    left = await run("quit()", name, is_interactive_quit=True, timeout=20)
    return {
        "outputs": outputs,
        "expect_string": observation.expect_string,
        "left": left.model_dump(),
        "after": (await run("echo on", name)).output,
    }


async def many_sessions_at_once():
    names = [await new_session(f"many-{number}") for number in range(8)]
    observations = await asyncio.gather(*(run(f"sleep 0.5; echo {name}", name) for name in names))
    return [observation.output for observation in observations]


async def execute():
    shell = await runtime.execute(Command(command="echo out; echo err >&2; exit 3", shell=True))
    merged = await runtime.execute(
        Command(command="echo out; echo err >&2", shell=True, merge_output_streams=True)
    )
    program = await runtime.execute(Command(command=["pwd"], cwd="/"))
    with_env = await runtime.execute(Command(command=["/usr/bin/env"], env={"ONLY": "this"}))
    return {
        "shell": shell.model_dump(),
        "merged": merged.model_dump(),
        "program": program.model_dump(),
        "env": with_env.stdout,
    }


async def execute_errors():
    return {
        "timeout": await caught(runtime.execute(Command(command=["sleep", "60"], timeout=0.3))),
        "check": await caught(
            runtime.execute(Command(command=["false"], check=True, error_msg="what went wrong"))
        ),
        "missing": await caught(runtime.execute(Command(command=["no-such-program"]))),
    }


async def files():
    path = str(folder / "made" / "file")
    content = "ä line\r\nand one more\n\ttab"
    await runtime.write_file(WriteFileRequest(path=path, content=content))
    (folder / "latin").write_bytes(b"\xe4")
    return {
        "on disk": Path(path).read_bytes().decode() == content,
        "read": (await runtime.read_file(ReadFileRequest(path=path))).content == content,
        "latin": (
            await runtime.read_file(ReadFileRequest(path=str(folder / "latin"), encoding="latin-1"))
        ).content,
        "replaced": (
            await runtime.read_file(ReadFileRequest(path=str(folder / "latin"), errors="replace"))
        ).content,
        "missing": await caught(runtime.read_file(ReadFileRequest(path=str(folder / "missing")))),
        "folder": await caught(runtime.read_file(ReadFileRequest(path=str(folder)))),
        "broken": await caught(runtime.read_file(ReadFileRequest(path=str(folder / "latin")))),
    }


async def upload():
    source = folder / "source"
    (source / "sub").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "a").write_bytes(bytes(range(256)) * 1000)
    (source / "sub" / "b").write_text("b")
    target = folder / "target"
    await runtime.upload(UploadRequest(source_path=str(source), target_path=str(target / "folder")))
    await runtime.upload(
        UploadRequest(source_path=str(source / "a"), target_path=str(target / "deep" / "file"))
    )
    return {
        "names": sorted(str(path.relative_to(target)) for path in target.rglob("*")),
        "same": [
            (target / name).read_bytes() == (source / "a").read_bytes() for name in ("folder/a", "deep/file")
        ],
    }


async def large_output():
    name = await new_session("large")
    observation = await run("head -c 3000000 /dev/zero | tr '\\0' x", name)
    return len(observation.output)


async def close():
    await new_session("open")
    await runtime.close()
    return await caught(run("true", "open"))


SCENARIOS = [
    is_alive,
    wrong_token,
    session,
    startup_source,
    session_exists,
    session_does_not_exist,
    non_zero_exit_code,
    syntax_error,
    timeout_and_interrupt,
    interrupt_while_it_runs,
    interactive_python,
    many_sessions_at_once,
    execute,
    execute_errors,
    files,
    upload,
    large_output,
    close,
]


async def main():
    results = {}
    for scenario in SCENARIOS:
        try:
            results[scenario.__name__] = await asyncio.wait_for(scenario(), 30)
        except Exception:
            results[scenario.__name__] = {"error": traceback.format_exc()}
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    runtime = RemoteRuntime(auth_token=sys.argv[2], host="http://127.0.0.1", port=int(sys.argv[1]))
    folder = Path(sys.argv[3])
    asyncio.run(main())
