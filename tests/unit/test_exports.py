"""Public is what `__all__` says, each name exists, and importing the package loads nothing heavy."""

import subprocess
import sys

import tuskws_fast


def test_every_public_name_exists() -> None:
    for name in tuskws_fast.__all__:
        assert getattr(tuskws_fast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(tuskws_fast, "no_such_name")


def test_importing_the_package_loads_no_loop_and_no_extension() -> None:
    heavy = "('uvloop', 'picows', 'tuskws_fast_ext')"
    probe = f"import sys, tuskws_fast; print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
