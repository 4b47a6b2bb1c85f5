from collections.abc import Callable
from typing import Any, TypeVar

_Entry = TypeVar("_Entry", bound=tuple[Any, ...])

def frame_entries(
    entries: list[Any], number: int, cls: type[tuple[Any, ...]], pack: Callable[[Any, int], bytes]
) -> bytes: ...
def note_homes(entries: list[Any], cls: type[tuple[Any, ...]], homes: dict[str, int], segment: int) -> bool: ...
def read_published(data: bytes, at: int, expected: int, cls: type[_Entry]) -> tuple[list[_Entry], int]: ...
