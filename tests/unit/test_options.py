"""How texts become values: units, words, ranges, and errors that name the option and where it came from."""

import re
from pathlib import Path

import pytest

from tuskws_fast.config import OPTIONS
from tuskws_fast.errors import ConfigError
from tuskws_fast.options import Kind, Option, parse, show


def make(kind: Kind, **facts: object) -> Option:
    return Option("opt", "section", kind, default=facts.pop("default", None), shown="", help="", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("1h", 3600), ("1d", 86400), ("1.5s", 1.5), (" 5 M ", 300)],
)
def test_a_duration_is_in_seconds_unless_it_has_a_unit(text: str, seconds: float) -> None:
    assert parse(make(Kind.DURATION), text, "x") == seconds


@pytest.mark.parametrize("raw", ["", "s", "-1", "5 weeks", "1e3", "0x10", True, None, [], "५s5"])
def test_what_is_no_duration_is_refused(raw: object) -> None:
    with pytest.raises(ConfigError, match=r"opt: .* is not a duration such as"):
        parse(make(Kind.DURATION), raw, "x")


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        ("65536", 65536),
        (65536, 65536),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("1MiB", 1048576),
        ("1kB", 1000),
        ("1.5KiB", 1536),
    ],
)
def test_a_size_is_in_bytes_unless_it_has_a_unit(raw: object, size: int) -> None:
    value = parse(make(Kind.SIZE), raw, "x")
    assert value == size
    assert type(value) is int


@pytest.mark.parametrize("raw", ["1.5", "64K", "-1", True, None])
def test_what_is_no_size_is_refused(raw: object) -> None:
    with pytest.raises(ConfigError, match="opt:"):
        parse(make(Kind.SIZE), raw, "x")


@pytest.mark.parametrize(("raw", "count"), [("100", 100), (100, 100), ("1_000", 1000), (" 7 ", 7)])
def test_a_count_is_a_plain_number(raw: object, count: int) -> None:
    assert parse(make(Kind.COUNT), raw, "x") == count


@pytest.mark.parametrize("raw", ["1.0", "1__0", "ten", "", True, 1.5, None, "9" * 19, "-3"])
def test_what_is_no_count_is_refused(raw: object) -> None:
    with pytest.raises(ConfigError, match=r"opt: .* is not a number"):
        parse(make(Kind.COUNT), raw, "x")


def test_auto_stands_for_zero_only_where_it_is_allowed() -> None:
    assert parse(make(Kind.COUNT, auto=True, least=1), "AUTO", "x") == 0
    with pytest.raises(ConfigError):
        parse(make(Kind.COUNT, auto=True, least=1), "0", "x")
    with pytest.raises(ConfigError):
        parse(make(Kind.COUNT), "auto", "x")


def test_a_value_outside_its_range_is_refused_with_the_bound_and_the_source() -> None:
    size = make(Kind.SIZE, least=1024, most=4096)
    with pytest.raises(ConfigError, match=r"opt: 12 is less than the least allowed, 1KiB \(from TUSKWS_OPT\)"):
        parse(size, "12", "TUSKWS_OPT")
    with pytest.raises(ConfigError, match=r"opt: 8KiB is more than the most allowed, 4KiB \(from --opt\)"):
        parse(size, "8KiB", "--opt")


@pytest.mark.parametrize(("raw", "value"), [("on", True), ("off", False), ("True", True), ("0", False), (True, True)])
def test_a_switch_takes_the_usual_words(raw: object, value: bool) -> None:
    assert parse(make(Kind.SWITCH), raw, "x") is value


def test_what_is_no_switch_is_refused() -> None:
    with pytest.raises(ConfigError, match="'maybe' is not on or off"):
        parse(make(Kind.SWITCH), "maybe", "x")


def test_a_choice_is_one_of_its_words_and_true_is_the_first_that_is_not_off() -> None:
    choice = make(Kind.CHOICE, choices=("shared", "off"))
    assert parse(choice, "OFF", "x") == "off"
    assert parse(choice, True, "x") == "shared"
    assert parse(choice, False, "x") == "off"
    with pytest.raises(ConfigError, match="one of shared, off"):
        parse(choice, "zip", "x")


def test_a_list_is_a_text_with_commas_or_a_list() -> None:
    assert parse(make(Kind.LIST), "a, b,,", "x") == ("a", "b")
    assert parse(make(Kind.LIST), ["a", "b"], "x") == ("a", "b")
    with pytest.raises(ConfigError):
        parse(make(Kind.LIST), ["a", 1], "x")


def test_a_secret_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(make(Kind.TEXT, secret=True), "hunter2\0", "x")
    assert "hunter2" not in str(caught.value)


def test_what_is_not_in_this_build_is_refused_unless_it_is_the_default() -> None:
    later = make(Kind.SWITCH, default=False, later="TLS comes later")
    assert parse(later, "off", "x") is False
    with pytest.raises(ConfigError, match="opt: TLS comes later"):
        parse(later, "on", "x")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (300.0, Kind.DURATION, "5m"),
        (90.0, Kind.DURATION, "90s"),
        (0.5, Kind.DURATION, "0.5s"),
        (0.0, Kind.DURATION, "0"),
        (65536, Kind.SIZE, "64KiB"),
        (1000, Kind.SIZE, "1000"),
        (True, Kind.SWITCH, "on"),
        (("a", "b"), Kind.LIST, "a,b"),
        ("", Kind.TEXT, "none"),
    ],
)
def test_values_are_shown_as_an_operator_writes_them(value: object, kind: Kind, text: str) -> None:
    assert show(value, kind) == text


@pytest.mark.parametrize(
    ("name", "flag", "off"),
    [
        ("no_demo", "--no-demo", "--demo"),
        ("enable_rate_limiting", "--enable-rate-limiting", "--disable-rate-limiting"),
        ("allow_no_exp", "--allow-no-exp", "--deny-no-exp"),
        ("escape_html", "--escape-html", "--no-escape-html"),
    ],
)
def test_a_switch_has_a_flag_for_each_way(name: str, flag: str, off: str) -> None:
    known = Option(name, "s", Kind.SWITCH, False, "", "")
    assert (known.flag, known.off_flag) == (flag, off)


# -- docs/tuning.md speaks of every option that trades something, and of none that there is not ------------------------

TUNING = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"
TUNED = {"processes", "limits", "timeouts", "rooms", "performance"}
# Who the node runs as, and where it is spoken to: nothing is gained or lost by these.
NO_TRADE = {"user", "group", "control_socket"}
FLAG = re.compile(r"`(--[a-z][a-z-]*)")


def flags_of_the_page() -> set[str]:
    return set(FLAG.findall(TUNING.read_text()))


@pytest.mark.parametrize(
    "name", [each.name for each in OPTIONS.values() if each.section in TUNED and each.name not in NO_TRADE]
)
def test_what_an_option_trades_is_said(name: str) -> None:
    known = OPTIONS[name]
    assert {known.flag, known.off_flag} & flags_of_the_page(), f"{known.flag} is not in docs/tuning.md"


def test_no_option_is_described_that_there_is_not() -> None:
    known = {flag for each in OPTIONS.values() for flag in (each.flag, each.off_flag)}
    assert not flags_of_the_page() - known
