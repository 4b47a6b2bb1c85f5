from tuskws_fast_ext.deflate import Deflater

def live_objects() -> int | None: ...

class Feed:
    conflate: bool
    active: bool
    head: bytes
    def __init__(self, head: bytes, conflate: bool) -> None: ...

class Frame:
    count: int
    exempt: bool
    feed: Feed | None
    first_offset: int
    last_offset: int
    def __init__(
        self,
        bodies: list[bytes],
        timestamp: float = 0.0,
        exempt: bool = False,
        feed: Feed | None = None,
        first_offset: int = 0,
    ) -> None: ...
    @staticmethod
    def message(opcode: int, payload: bytes) -> Frame: ...
    @staticmethod
    def raw(wire: bytes) -> Frame: ...
    @staticmethod
    def control(opcode: int, payload: bytes) -> Frame: ...
    def encoded(self, batch: bool = False, deflater: Deflater | None = None) -> bytes: ...

def control_frame(opcode: int, payload: bytes) -> bytes: ...
