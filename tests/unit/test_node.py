"""The composition root: finding the application, and ends that are one line and an exit code."""

import socket
import sys
from pathlib import Path

import pytest

from tuskws_fast import node
from tuskws_fast.config import load
from tuskws_fast.errors import BootError, ExitCode
from tuskws_fast.supervisor.reloading import Reloaded


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
        name = Path("/proc/self/comm").read_text()
        code = node.run_node(load({"port": taken.getsockname()[1], "workers": 1}))
        assert Path("/proc/self/comm").read_text() == name, "who could not start is not renamed"
    assert code == ExitCode.BOOT
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cannot start: cannot listen on 127.0.0.1:" in lines[0]
    assert "another process uses the port" in lines[0]


def test_a_reload_sorts_what_changed_by_when_it_is_in_force(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a" * 32)
    options = {"workers": 1, "jwt_secret_file": str(secret)}
    settings = node.Settings(load(options), lambda: load(options))
    assert settings.reload() == Reloaded({"options": {}, "certificates": False}, [], [], [])
    options |= {
        "log_level": "warning",
        "max_frame_size": "32KiB",
        "port": 1,
        "allowed_origins": "https://a",
        "host": "::1",
    }
    secret.write_text("b" * 32)
    outcome = settings.reload()
    assert outcome.fields is not None
    assert outcome.fields["options"]["log_level"] == "warning"
    assert set(outcome.changed) == {"log_level", "allowed_origins", "enable_origin_check", "jwt_secret_file"}
    assert list(outcome.at_restart) == ["max_frame_size"]
    assert list(outcome.at_start) == ["host", "port"]
    # The next processes have all but what needs a start.
    assert settings.config.limits.max_frame_size == 32 * 1024
    assert settings.config.server.port == 8080


def test_another_number_of_workers_needs_a_start_and_so_does_what_follows_from_it() -> None:
    options = {"workers": 1}
    settings = node.Settings(load(options), lambda: load(options))
    options["workers"] = 2
    outcome = settings.reload()
    assert outcome.problems == ()
    assert set(outcome.at_start) == {"workers", "max_connections"}


def test_without_a_configuration_to_read_again_the_keys_are_read_again(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a" * 32)
    settings = node.Settings(load({"jwt_secret_file": str(secret)}), None)
    assert not settings.reload().changed
    secret.write_text("b" * 32)
    assert list(settings.reload().changed) == ["jwt_secret_file"]
    secret.write_text("short")
    [problem] = settings.reload().problems
    assert "needs at least 32" in problem


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"port": "x"}, "port: 'x' is not a number"),
        ({"allowed_origins": "https://"}, "allowed_origins:"),
        (
            {"allowed_origins": ",".join(f"https://{n:060}.example" for n in range(900))},
            "enable_origin_check, allowed_origins, log_level: too long",
        ),
        # Good by itself, but the rings that it needs are made at the start.
        (
            {
                "max_frame_size": "4MiB",
                "ring_up_size": "16MiB",
                "ring_down_size": "16MiB",
                "queue_bytes_max": "8MiB",
                "enable_compression": "off",
            },
            "ring_up_size:",
        ),
    ],
)
def test_a_reload_of_what_cannot_work_changes_nothing(options: dict[str, str], problem: str) -> None:
    good = load({"workers": 1})
    settings = node.Settings(good, lambda: load({"workers": 1, "log_level": "debug", **options}))
    outcome = settings.reload()
    assert outcome.fields is None
    assert [text for text in outcome.problems if text.startswith(problem)]
    assert settings.config is good


@pytest.mark.parametrize("origin", ["https://", "https://a/path", "https://u@a", "https://a b", "*"])
def test_what_is_no_origin_stops_the_node_before_anything_is_started(
    origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert node.run_node(load({"allowed_origins": origin, "port": 0, "workers": 1})) == ExitCode.CONFIG
    assert "cannot start: allowed_origins:" in capfd.readouterr().err
