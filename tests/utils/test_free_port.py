from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from swerex.utils.free_port import find_free_port


def test_the_port_can_be_bound():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", find_free_port()))


def test_many_threads_get_different_ports():
    with ThreadPoolExecutor(8) as pool:
        ports = list(pool.map(lambda _: find_free_port(), range(200)))
    assert len(set(ports)) == 200


def test_no_attempts_is_an_error():
    with pytest.raises(RuntimeError, match="found no free port in 0 attempts"):
        find_free_port(max_attempts=0)
