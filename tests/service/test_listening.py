"""Sockets to listen on, and what is said when they cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llmfeatures.cli.app import run
from llmfeatures.errors import ConfigError
from llmfeatures.service.listening import close, open_sockets, port_of
from tests.service.world import make_world


def test_every_address_of_a_host_is_listened_on_with_one_port() -> None:
    opened = open_sockets("localhost", 0)
    known = {one[4][0] for one in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert {one.getsockname()[0] for one in opened} <= known
    assert {one.getsockname()[1] for one in opened} == {port_of(opened)}
    socket.create_connection(("localhost", port_of(opened)), 5).close()
    close(opened)


def test_a_port_that_is_taken_and_addresses_that_are_none() -> None:
    (taken,) = open_sockets("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="is taken; stop what listens there"):
        open_sockets("127.0.0.1", taken.getsockname()[1])
    taken.close()
    for host in ("192.0.2.1", "no.such.host.invalid", "a" * 300):
        with pytest.raises(ConfigError, match="no address of this machine"):
            open_sockets(host, 0)


def test_serve_says_that_its_port_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_world(tmp_path / "world", materialize=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for workers in ("1", "2"):
            assert run(["serve", "--project", str(root), "--port", port, "--workers", workers]) == 2
            assert f"port {port} of 127.0.0.1 is taken" in capsys.readouterr().err
