"""What is remembered about a place for a process."""

import signal

import pytest

from tuskws_fast.supervisor.slots import describe_end


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "exit code 0"), (3, "exit code 3"), (-signal.SIGKILL, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_an_end_is_described_in_words(status: int, text: str) -> None:
    assert describe_end(status) == text
