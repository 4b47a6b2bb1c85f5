from enum import IntEnum

class Verdict(IntEnum):
    MORE = 0
    WHOLE = 1

class MessageReader:
    payload: bytes | None
    opcode: int
    compressed: bool
    reason: bytes | None
    def __init__(
        self, message_max: int, fragments_max: int, check_text: bool = False, rsv1_allowed: bool = False
    ) -> None: ...
    def feed(self, opcode: int, fin: bool, payload: bytes, rsv: int = 0) -> int: ...
