from collections.abc import Callable
from typing import Any

from picows import WSListener

class FrameParser(WSListener):
    failures: int
    def __init__(self, make_protocol: Callable[[Callable[[Any], WSListener | None]], Any]) -> None: ...
