"""The composition root: finding the application, and ends that are one line and an exit code."""

import socket
import sys
from pathlib import Path

import pytest

from tuskws_fast import node
from tuskws_fast.config import load
from tuskws_fast.errors import BootError, ConfigError, ExitCode


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_an_application_is_found_in_the_working_directory(here: Path) -> None:
    (here / "shop.py").write_text("class holder:\n    server = 42\n")
    assert node.load_app("shop:holder.server") == 42


@pytest.mark.parametrize(
    ("source", "name", "reason"),
    [
        (None, "missing:server", "ModuleNotFoundError: No module named 'missing'"),
        ("", "broken:server", "AttributeError: module 'broken' has no attribute 'server'"),
        ("x = 1\nraise ValueError('no luck')", "broken:server", r"ValueError: no luck \(.*broken\.py:2\)"),
        ("import nonesuch", "broken:server", r"No module named 'nonesuch' \(.*broken\.py:1\)"),
        ("def", "broken:server", "SyntaxError: "),
    ],
)
def test_what_cannot_be_loaded_is_a_boot_error_that_says_where(
    here: Path, source: str | None, name: str, reason: str
) -> None:
    if source is not None:
        (here / "broken.py").write_text(source)
    with pytest.raises(BootError, match=f"cannot load the application {name}: .*{reason}"):
        node.load_app(name)


def test_what_goes_wrong_on_the_way_up_is_one_line_and_an_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = node.run_node(load({"port": taken.getsockname()[1], "workers": 1}))
    assert code == ExitCode.BOOT
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cannot start: cannot listen on 127.0.0.1:" in lines[0]
    assert "another process uses the port" in lines[0]


def test_a_reload_changes_the_log_level_and_passes_it_on() -> None:
    assert node._reload(lambda: load({"log_level": "warning"})) == {"log_level": "warning"}
    assert node._reload(None) == {}


def test_a_reload_of_a_broken_configuration_changes_nothing() -> None:
    def reread() -> None:
        raise ConfigError("port: 'x' is not a number")

    assert node._reload(reread) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("origin", ["https://", "https://a/path", "https://u@a", "https://a b", "*"])
def test_what_is_no_origin_stops_the_node_before_anything_is_started(
    origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert node.run_node(load({"allowed_origins": origin, "port": 0, "workers": 1})) == ExitCode.CONFIG
    assert "cannot start: allowed_origins:" in capfd.readouterr().err
