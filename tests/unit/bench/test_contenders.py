"""What the contenders need to be started, and that they say what is missing."""

import socket
from pathlib import Path

import pytest
from tuskws_bench import contenders
from tuskws_bench.contenders import CONTENDERS, ContenderError, NodePeer, PythonPeer, Setting, free_port


def test_a_free_port_is_none_of_those_that_clients_get():
    of_clients = int(contenders.CLIENT_PORTS.read_text().split()[0])
    assert free_port() < max(of_clients, contenders.PORTS_UNTIL)


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as busy, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = busy.getsockname()[1], other.getsockname()[1]
        other.close()
        monkeypatch.setattr(contenders.random, "sample", lambda ports, count: [taken, free])
        assert free_port() == free
        monkeypatch.setattr(contenders.random, "sample", lambda ports, count: [taken])
        with pytest.raises(ContenderError, match="free"):
            free_port()


def test_what_the_project_itself_installs_is_not_missing():
    assert [CONTENDERS[name](Setting()).missing() for name in ("ours", "websockets", "picows")] == [None] * 3


def test_an_absent_python_package_is_named():
    peer = PythonPeer((), "x", "websockets_server.py", "no_such_package")
    assert peer.missing() == "the Python package no_such_package"


def test_an_absent_environment_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders, "INSTALLED", tmp_path)
    assert "environment" in str(CONTENDERS["socketify"](Setting()).missing())


def test_without_a_checkout_there_are_no_peers_but_our_server(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders, "PEERS", tmp_path)
    monkeypatch.setattr(contenders, "NODE", tmp_path / "node")
    peers = ("c-plain", "bun", "node-ws", "websockets", "picows", "socketify")
    assert {CONTENDERS[name](Setting()).missing() for name in peers} == {contenders.NO_CHECKOUT}
    assert CONTENDERS["ours"](Setting()).missing() is None


def test_an_absent_npm_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders, "NODE", tmp_path)
    (tmp_path / "ws_server.js").touch()
    monkeypatch.setattr(contenders.shutil, "which", lambda program: program)
    assert NodePeer((), "Node ws", "ws_server.js", "ws").missing() == "the npm package ws"


@pytest.mark.parametrize("name", ["nats", "nchan"])
def test_an_absent_program_of_the_distribution_is_named(monkeypatch, name):
    peer = CONTENDERS[name](Setting())
    monkeypatch.setattr(peer, "found", lambda path: None)
    assert peer.missing() in ("nats-server", "nginx")


def test_a_module_alone_may_be_missing(monkeypatch):
    peer = CONTENDERS["nchan"](Setting())
    monkeypatch.setattr(peer, "found", lambda path: None if path.endswith(".so") else Path("/usr/sbin/nginx"))
    assert peer.missing() == "nginx's module nchan"


def test_nats_uses_as_many_cores_as_it_is_given():
    assert CONTENDERS["nats"](Setting(cores=(0, 1))).environment() == {"GOMAXPROCS": "2"}
