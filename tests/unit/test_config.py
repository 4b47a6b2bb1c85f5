"""The configuration as a whole: who wins, what is refused, what follows from what."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuskws_fast.config import OPTIONS, SECTIONS, Config, Security, load, read_jwt_secret, worker_connections_max
from tuskws_fast.errors import ConfigError
from tuskws_fast.options import Kind

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"


def write(directory: Path, text: str) -> Path:
    file = directory / "node.toml"
    file.write_text(text)
    return file


def test_flags_go_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 1\nbacklog = 1\nmax_rooms = 1\n")
    config = load({"port": "3"}, {"TUSKWS_PORT": "2", "TUSKWS_BACKLOG": "2"}, file)
    assert (config.server.port, config.server.backlog, config.limits.max_rooms) == (3, 2, 1)
    assert config.server.host == "127.0.0.1"


def test_a_file_may_group_its_options_by_section(tmp_path: Path) -> None:
    config = load(file=write(tmp_path, '[server]\nport = 9\n[security]\nallowed_origins = ["https://a.example"]\n'))
    assert config.server.port == 9
    assert config.security.allowed_origins == ("https://a.example",)


def test_an_option_in_the_table_of_another_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"port: belongs to \[server\], not to \[limits\]"):
        load(file=write(tmp_path, "[limits]\nport = 9\n"))


def test_an_unknown_name_is_refused_wherever_it_stands_and_the_nearest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_conections: no such option .*did you mean max_connections\?"):
        load({"max_conections": 1})
    with pytest.raises(ConfigError, match=r"prot: no such option .*TUSKWS_PROT.*did you mean port\?"):
        load(environ={"TUSKWS_PROT": "1"})
    with pytest.raises(ConfigError, match=r"histroy_size: .*node.toml.*did you mean history_size\?"):
        load(file=write(tmp_path, "histroy_size = 1\n"))


def test_other_variables_are_left_alone() -> None:
    load(environ={"PATH": "/bin", "TUSKWS_DEBUG": "1", "TUSKWS_CONFIG": "x", "TUSKWS_EXT": "ring"})


@pytest.mark.parametrize(
    ("text", "message"), [("port = ", r"node\.toml: "), ("port = 99999", "port: 99999 is more than")]
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file=write(tmp_path, text))


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: No such file"):
        load(file=tmp_path / "no.toml")


def test_auto_is_worked_out_and_can_be_handed_to_another_process() -> None:
    config = load({"workers": "3", "max_connections": "auto"})
    assert config.limits.max_connections == 3 * worker_connections_max()
    assert load({"workers": "auto"}).processes.workers >= 1
    assert pickle.loads(pickle.dumps(config)) == config


def test_more_connections_than_open_files_allow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_connections: the open-file limit .* allows \d+ at most"):
        load({"workers": 1, "max_connections": 10**9})


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().server.port = 1  # type: ignore[misc]


def test_a_key_implies_authentication_unless_it_is_turned_off() -> None:
    assert load().security.require_auth is False
    assert load({"jwt_secret": SECRET}).security.require_auth is True
    assert load({"jwt_secret": SECRET, "require_auth": False}).security.require_auth is False


def test_authentication_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="require_auth: without jwt_secret"):
        load({"require_auth": True})


def test_origins_imply_the_origin_check_unless_it_is_turned_off() -> None:
    assert load().security.enable_origin_check is False
    given = {"allowed_origins": "https://a.example"}
    assert load(given).security.enable_origin_check is True
    assert load({**given, "enable_origin_check": "off"}).security.enable_origin_check is False


def test_the_secret_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    security = load({"jwt_secret_file": str(file)}).security
    assert read_jwt_secret(security) == SECRET.encode()
    file.write_text(SECRET[::-1])
    assert read_jwt_secret(security) == SECRET[::-1].encode()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"jwt_secret": SECRET[1:]}, "jwt_secret: the secret has 31 bytes, HS256 needs at least 32"),
        ({"jwt_secret_file": "/no/such/file"}, "jwt_secret_file: /no/such/file: No such file"),
        ({"jwt_secret_file": "x", "jwt_secret": SECRET}, "not both"),
        ({"inflate_rate_limit": "64KiB"}, "inflate_rate_limit: 65536 is less than twice max_frame_size"),
        (
            {"inflate_rate_limit_worker": "4MiB"},
            "inflate_rate_limit_worker: 4194304 is less than twice inflate_rate_limit",
        ),
        ({"ssl_enabled": True}, "ssl_cert: TLS needs a certificate and its key"),
        ({"ssl_cert": "a.pem"}, "ssl_key: TLS needs a certificate and its key"),
        ({"ssl_key": "a.pem"}, "ssl_key: without TLS"),
        ({"ssl_enabled": False, "ssl_cert": "a.pem", "ssl_key": "a.key"}, "ssl_cert: without TLS"),
        (
            {"forwarded_allow_ips": "10.0.0.0/8,*"},
            "forwarded_allow_ips: '\\*' does not appear to be .* 0.0.0.0/0 and ::/0",
        ),
        ({"forwarded_allow_ips": "10.0.0.1/8"}, "forwarded_allow_ips: 10.0.0.1/8 has host bits set"),
        ({"api_port": 9000}, "api_port: the HTTP API is not in this build yet"),
        ({"jwt_algorithms": "RS256"}, "jwt_algorithms: only HS256"),
        ({"max_message_size": "65KiB"}, "max_message_size: 66560 bytes do not fit into max_frame_size"),
        ({"ring_up_size": "1000000"}, "ring_up_size: 1000000 is not a power of two"),
        ({"ring_down_size": "64KiB"}, "ring_down_size: 65536 is less than four times max_frame_size"),
        ({"queue_bytes_max": "1KiB"}, "queue_bytes_max: 1024 is less than max_frame_size"),
        ({"app": "module"}, "app: 'module' is not module:server"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(flags)


def test_the_options_of_the_seed_are_accepted_with_their_defaults() -> None:
    seed = {
        "host": "0.0.0.0",
        "port": 8080,
        "max_connections": 1000,
        "heartbeat_interval": 30,
        "message_rate_limit": 100,
        "ssl_enabled": False,
        "max_room_members": 1000,
        "max_rooms_per_user": 50,
        "enable_compression": False,
        "buffer_size": 8192,
        "enable_origin_check": True,
        "allowed_origins": ["https://yourdomain.com"],
        "enable_rate_limiting": True,
        "max_message_size": 1024,
        "max_connections_per_ip": 100,
        "connection_timeout": 300,
        "idle_timeout": 60,
    }
    config = load(seed)
    assert config.limits.max_message_size == 1024
    assert config.timeouts.idle_timeout == 60.0


def test_the_switch_of_the_seed_chooses_how_to_compress() -> None:
    assert load({"enable_compression": True}).performance.enable_compression == "shared"
    assert load({"enable_compression": False}).performance.enable_compression == "off"


def test_without_compression_its_budgets_bind_nothing() -> None:
    assert load({"enable_compression": "off", "inflate_rate_limit": "1KiB"}).limits.inflate_rate_limit == 1024


def test_no_secret_is_in_the_text_of_a_configuration() -> None:
    assert SECRET not in repr(load({"jwt_secret": SECRET}))


def test_no_secret_is_none() -> None:
    assert read_jwt_secret(Security()) is None


def test_every_option_says_what_it_is_and_accepts_its_own_default() -> None:
    assert set(OPTIONS) == {field.name for cls in SECTIONS.values() for field in dataclasses.fields(cls)}
    assert [field.name for field in dataclasses.fields(Config)] == list(SECTIONS)
    for known in OPTIONS.values():
        assert known.help.endswith("."), known.name
        if not known.auto and known.kind is not Kind.SWITCH:
            load({known.name: known.default})


def test_the_page_of_options_is_current() -> None:
    command = [sys.executable, ROOT / "scripts" / "docs", "--check"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
