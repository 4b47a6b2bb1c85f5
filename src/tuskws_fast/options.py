"""What an option is: a dataclass field that also knows its kind, unit, range and help, and how to read a text as one.

`config` declares the options with `option(...)`; the command line, the environment, the file, the help and
docs/options.md are all made from these declarations. A text means the same wherever it comes from:

    duration   30   30s   500ms   5m   1h   1d            seconds, as float
    size       65536   64KiB   1MiB   64kB                bytes
    count      100                                        a number without a unit
    list       a,b                                        (in a file also ["a", "b"])
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tuskws_fast.errors import ConfigError

ENV_PREFIX = "TUSKWS_"


class Kind(Enum):
    TEXT = "text"
    COUNT = "count"
    DURATION = "duration"
    SIZE = "size"
    SWITCH = "switch"
    CHOICE = "choice"
    LIST = "list"


class Applied(Enum):
    """When a changed value is in force."""

    RELOAD = "reload"  # at SIGHUP, in every process, for every connection
    RESTART = "restart"  # in workers that are started after it: `tuskws-fast restart` renews them one by one
    START = "start"  # with the next start of the node


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `default` is the value, `shown` how the help and the docs write it."""

    name: str
    section: str
    kind: Kind
    default: Any
    shown: str
    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    auto: bool = False
    secret: bool = False
    later: str = ""
    applied: Applied = Applied.START

    @property
    def shown_default(self) -> str:
        return f"{self.shown} {self.unit}" if self.unit else self.shown

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def off_flag(self) -> str:
        """The flag that turns a switch off: a file or the environment may have turned it on."""
        for word, opposite in (("enable_", "disable_"), ("no_", ""), ("allow_", "deny_")):
            if self.name.startswith(word):
                return "--" + (opposite + self.name.removeprefix(word)).replace("_", "-")
        return "--no-" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()


def option(
    default: Any,
    kind: Kind,
    help: str,
    *,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    shown: str | None = None,
    auto: bool = False,
    secret: bool = False,
    later: str = "",
) -> Any:
    """Declare an option as a field of a section.

    `auto`: the word `auto` is accepted and stands for 0, to be worked out when the machine is known. `later`: what
    this build cannot do yet; asking for anything but the default is refused with that reason, never ignored.
    """
    facts = {
        "kind": kind,
        "shown": show(default, kind) if shown is None else shown,
        "help": help,
        "unit": unit,
        "least": least,
        "most": most,
        "choices": choices,
        "auto": auto,
        "secret": secret,
        "later": later,
    }
    return dataclasses.field(default=default, repr=not secret, metadata=facts)


def options_of(section: str, cls: type[Any]) -> list[Option]:
    return [Option(field.name, section, default=field.default, **field.metadata) for field in dataclasses.fields(cls)]


_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_NUMBER_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_ON = {"true", "on", "yes", "1"}
_OFF = {"false", "off", "no", "0"}


def show(value: Any, kind: Kind) -> str:
    """`value` the way an operator would write it."""
    if kind is Kind.DURATION:
        for unit in ("d", "h", "m"):
            if value and value % _DURATIONS[unit] == 0:
                return f"{value / _DURATIONS[unit]:g}{unit}"
        return f"{value:g}s" if value else "0"
    if kind is Kind.SIZE:
        for unit, name in (("gib", "GiB"), ("mib", "MiB"), ("kib", "KiB")):
            if value and value % _SIZES[unit] == 0:
                return f"{value // _SIZES[unit]}{name}"
        return str(value)
    if kind is Kind.SWITCH:
        return "on" if value else "off"
    if kind is Kind.LIST:
        return ",".join(value) or "none"
    return str(value) if value != "" else "none"


def parse(option: Option, raw: object, source: str) -> Any:
    """The value that `raw` (a text, or what TOML or Python gave) stands for. Raises `ConfigError` naming `source`."""
    try:
        value = _PARSERS[option.kind](option, raw)
    except (ValueError, TypeError) as error:
        shown = "the value given" if option.secret else repr(raw)
        raise ConfigError(f"{option.name}: {shown} is not {error} (from {source})") from None
    _check_range(option, value, source)
    if option.later and value != option.default:
        raise ConfigError(f"{option.name}: {option.later} (from {source})")
    return value


def _check_range(option: Option, value: Any, source: str) -> None:
    if option.auto and value == 0:
        return
    if option.least is not None and value < option.least:
        shown, bound = show(value, option.kind), show(option.least, option.kind)
        raise ConfigError(f"{option.name}: {shown} is less than the least allowed, {bound} (from {source})")
    if option.most is not None and value > option.most:
        shown, bound = show(value, option.kind), show(option.most, option.kind)
        raise ConfigError(f"{option.name}: {shown} is more than the most allowed, {bound} (from {source})")


def _parse_text(option: Option, raw: object) -> str:
    if not isinstance(raw, str) or "\0" in raw:
        raise TypeError("a text")
    return raw


def _parse_count(option: Option, raw: object) -> int:
    if option.auto and isinstance(raw, str) and raw.strip().lower() == "auto":
        return 0
    wanted = "a number, or auto" if option.auto else "a number"
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise TypeError(wanted)
    if isinstance(raw, str) and not re.fullmatch(r"\d{1,18}|\d{1,3}(_\d{3}){1,5}", raw.strip()):
        raise ValueError(wanted)
    value = int(raw)
    if option.auto and value == 0:
        raise ValueError(wanted)
    return value


def _parse_quantity(raw: object, units: dict[str, Any], bare: str, wanted: str) -> float:
    """A number and its unit as a multiple of the unit `bare`, which is also what a number alone is in."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise TypeError(wanted)
    match = _NUMBER_UNIT.fullmatch(str(raw).strip().lower())
    if match is None or (match[2] or bare) not in units:
        raise ValueError(wanted)
    return float(match[1]) * float(units[match[2] or bare])


def _parse_duration(option: Option, raw: object) -> float:
    return _parse_quantity(raw, _DURATIONS, "s", "a duration such as 30, 30s, 500ms or 5m")


def _parse_size(option: Option, raw: object) -> int:
    value = _parse_quantity(raw, _SIZES, "b", "a size such as 65536, 64KiB or 1MiB")
    if value != int(value):
        raise ValueError("a whole number of bytes")
    return int(value)


def _parse_switch(option: Option, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower()
    if word not in _ON | _OFF:
        raise ValueError("on or off")
    return word in _ON


def _parse_choice(option: Option, raw: object) -> str:
    if isinstance(raw, bool):
        # The seed's `enable_compression => true`: on is the first choice that is not off.
        raw = next((choice for choice in option.choices if choice != "off"), "on") if raw else "off"
    word = str(raw).strip().lower()
    if word not in option.choices:
        raise ValueError("one of " + ", ".join(option.choices))
    return word


def _parse_list(option: Option, raw: object) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise TypeError("a list of texts")
    found = tuple(part.strip() for part in parts if part.strip())
    if option.choices and not set(found) <= set(option.choices):
        raise ValueError("made of " + ", ".join(option.choices))
    return found


_PARSERS = {
    Kind.TEXT: _parse_text,
    Kind.COUNT: _parse_count,
    Kind.DURATION: _parse_duration,
    Kind.SIZE: _parse_size,
    Kind.SWITCH: _parse_switch,
    Kind.CHOICE: _parse_choice,
    Kind.LIST: _parse_list,
}
