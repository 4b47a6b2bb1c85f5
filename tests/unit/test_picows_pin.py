"""picows is an ABI: the release the extension was built on, the one it runs on and the two pins must be the same."""

import tomllib
from importlib.metadata import version
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def pin(requirements: list[str]) -> str:
    [found] = [line for line in requirements if line.startswith("picows")]
    assert found.startswith("picows==")
    return found.removeprefix("picows==")


def test_build_and_run_pin_the_release_that_is_installed() -> None:
    built_on = pin(PROJECT["build-system"]["requires"])
    assert built_on == pin(PROJECT["project"]["dependencies"]) == version("picows")


def test_the_extension_imports_on_it() -> None:
    from tuskws_fast_ext.parser import FrameParser

    assert FrameParser.__mro__[1].__name__ == "WSListener"
