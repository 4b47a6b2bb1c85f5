"""The command line: help from the declarations, errors in one line, `stats` for people and programs."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tuskws_fast import __version__, node
from tuskws_fast.cli import cli, stats_text
from tuskws_fast.config import OPTIONS, SECTIONS, Config
from tuskws_fast.errors import ExitCode
from tuskws_fast.options import Kind
from tuskws_fast.supervisor.operators import default_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configurations with which a node would have been run."""
    configs: list[Config] = []

    def run_node(config: Config, app: object = None, reread: Any = None) -> ExitCode:
        configs.append(config)
        assert reread() == config
        return ExitCode.DRAIN_TIMED_OUT

    monkeypatch.setattr(node, "run_node", run_node)
    for name in [name for name in os.environ if name.startswith("TUSKWS_")]:
        monkeypatch.delenv(name)
    return configs


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args, prog_name="tuskws-fast")


def test_help_shows_every_flag_with_default_and_variable_under_its_section() -> None:
    text = invoke("--help").output
    words = re.sub(r"\s+", "", text)
    for known in OPTIONS.values():
        assert f"{known.flag} " in text, known.flag
        assert known.env in words, known.env
        assert re.sub(r"\s+", "", f"[default: {known.shown_default};") in words, known.name
    positions = [text.index(f"\n{section.capitalize()} (") for section in SECTIONS]
    assert positions == sorted(positions)


def test_flags_reach_the_node_and_its_exit_code_comes_back(started: list[Config]) -> None:
    result = invoke("--workers", "4", "--port", "9001", "--history-ttl", "10m", "--no-demo", "--disable-rate-limiting")
    assert result.exit_code == ExitCode.DRAIN_TIMED_OUT
    [config] = started
    assert config.processes.workers == 4
    assert config.server.port == 9001
    assert config.rooms.history_ttl == 600
    assert config.server.no_demo is True
    assert config.limits.enable_rate_limiting is False


def test_file_and_environment_are_read_unless_a_flag_says_otherwise(
    started: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "n.toml"
    file.write_text("port = 1111\nno_demo = true\n")
    monkeypatch.setenv("TUSKWS_WORKERS", "7")
    invoke("--config", str(file), "--demo")
    monkeypatch.setenv("TUSKWS_CONFIG", str(file))
    invoke()
    first, second = started
    assert (first.server.port, first.processes.workers, first.server.no_demo) == (1111, 7, False)
    assert (second.server.port, second.processes.workers, second.server.no_demo) == (1111, 7, True)


def test_every_flag_accepts_its_default(started: list[Config]) -> None:
    for known in OPTIONS.values():
        if known.kind is not Kind.SWITCH and not known.auto:
            value = ",".join(known.default) if known.kind is Kind.LIST else str(known.default)
            result = invoke(f"{known.flag}={value}")
            assert result.exit_code == ExitCode.DRAIN_TIMED_OUT, result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--port", "99999"], "tuskws-fast: port: 99999 is more than the most allowed, 65535 (from --port)\n"),
        (
            ["--enable-compression", "zip"],
            "tuskws-fast: enable_compression: 'zip' is not one of shared, dedicated, off",
        ),
        (["--ssl-enabled"], "tuskws-fast: ssl_cert: TLS needs a certificate and its key"),
        (["--config", "/no/file"], "tuskws-fast: /no/file: No such file or directory\n"),
        (["--prot", "1"], "Did you mean one of:"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(started: list[Config], args: list[str], message: str) -> None:
    result = invoke(*args)
    assert result.exit_code == ExitCode.CONFIG
    assert message in result.output
    assert "Traceback" not in result.output
    assert not started


def test_version() -> None:
    assert invoke("--version").output == f"tuskws-fast, version {__version__}\n"


DOCUMENT = {
    "node": {
        "total_connections": 3,
        "total_rooms": 2,
        "online_users": 1,
        "memory_usage": 5 << 20,
        "peak_memory": 9 << 20,
        "uptime": 60,
    },
    "health": {"status": "healthy", "uptime_seconds": 60},
    "processes": [
        {
            "name": "worker 0",
            "state": "ready",
            "pid": 42,
            "restarts": 1,
            "connections": 3,
            "messages": 10,
            "deliveries": 20,
            "pss": 1 << 20,
            "cpu_seconds": 1.5,
        }
    ],
}


def test_stats_are_read_from_the_socket_of_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def read_stats(path: Path) -> dict[str, Any]:
        asked.append(path)
        return DOCUMENT

    monkeypatch.setattr("tuskws_fast.cli.read_stats", read_stats)
    assert json.loads(invoke("stats", "--json", "--port", "9001").output) == DOCUMENT
    assert "healthy" in invoke("--port", "9002", "stats").output
    invoke("stats", "--control-socket", "/x/y.sock")
    monkeypatch.setenv("TUSKWS_PORT", "9003")
    invoke("stats")
    assert asked == [
        default_path(9001),
        default_path(9002),
        Path("/x/y.sock"),
        default_path(9003),
    ]


@pytest.mark.parametrize("command", ["stats", "reload", "restart"])
def test_without_a_node_there_is_one_clear_line(command: str, tmp_path: Path) -> None:
    result = invoke(command, "--control-socket", str(tmp_path / "none.sock"))
    assert result.exit_code == ExitCode.FAILED
    assert result.output.startswith("tuskws-fast: no node answers on ")


def test_stats_for_people_have_the_fields_of_the_seed_and_a_row_a_process() -> None:
    text = stats_text(DOCUMENT)
    for field in ("status", "uptime", *(name for name in DOCUMENT["node"] if name != "uptime")):
        assert re.search(rf"^{field} ", text, re.MULTILINE)
    assert text.splitlines()[-1].split() == ["worker", "0", "ready", "42", "1", "3", "10", "20", "1.0", "1.50"]


Answer = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Have the node answer with these lines."""

    def give(lines: list[dict[str, Any]]) -> None:
        monkeypatch.setattr("tuskws_fast.cli.ask", lambda path, command, timeout_s: iter(lines))

    return give


STEP = {"old": "worker 0", "new": "worker 2", "step": 1, "of": 2}


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        ([{"event": "done", "workers": 2}], ExitCode.OK, "done: 2 workers replaced"),
        ([{"event": "aborted", "reason": "why"}], ExitCode.FAILED, "given up: why"),
        ([], ExitCode.FAILED, "given up: the node ended"),
    ],
)
def test_a_restart_is_told_step_by_step(answer: Answer, last: list[dict[str, Any]], code: ExitCode, text: str) -> None:
    answer([{"event": event, **STEP} for event in ("starting", "draining", "replaced")] + last)
    result = invoke("restart")
    assert result.exit_code == code
    assert result.output.splitlines() == [
        "1/2  worker 2 is starting, to take the place of worker 0",
        "1/2  worker 2 serves, worker 0 sends its clients away",
        "1/2  worker 0 has ended",
        text,
    ]


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        ({"problems": []}, ExitCode.OK, "nothing has changed"),
        ({"changed": ["log_level", "jwt_issuer"], "problems": []}, ExitCode.OK, "in force: log_level, jwt_issuer"),
        ({"at_restart": ["app"], "problems": []}, ExitCode.OK, "with `tuskws-fast restart`: app"),
        ({"at_start": ["port"], "problems": []}, ExitCode.OK, "with the next start only: port"),
        ({"problems": ["port: no"]}, ExitCode.FAILED, "left as it was: port: no"),
    ],
)
def test_a_reload_says_what_came_of_it(answer: Answer, outcome: dict[str, Any], code: ExitCode, text: str) -> None:
    answer([outcome])
    result = invoke("reload")
    assert (result.exit_code, " ".join(result.output.split())) == (code, text)
