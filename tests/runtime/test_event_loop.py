"""A running event loop, such as a notebook's, does not mind our blocking calls, nor they it."""

from __future__ import annotations

import asyncio
import warnings

from swerex.runtime.abstract import AbstractRuntime, Command


def test_a_call_inside_a_running_event_loop(runtime: AbstractRuntime, name: str) -> None:
    async def cell() -> tuple[str, str]:
        with runtime.session(name) as session:
            return session.run("echo in a session").output, runtime.execute(
                Command(command="echo out")
            ).stdout

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(cell()) == ("in a session\n", "out\n")


def test_a_call_in_a_thread_of_an_event_loop_lets_the_loop_go_on(runtime: AbstractRuntime) -> None:
    async def cells() -> list[str]:
        waiting = asyncio.create_task(
            asyncio.to_thread(runtime.execute, Command(command="sleep 1; echo slow"))
        )
        first = (await asyncio.to_thread(runtime.execute, Command(command="echo fast"))).stdout
        return [first, str(waiting.done()), (await waiting).stdout]

    assert asyncio.run(cells()) == ["fast\n", "False", "slow\n"]
