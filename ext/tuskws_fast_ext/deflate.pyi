class Scratch:
    size: int
    deflated_messages: int
    deflated_bytes: int

class Deflater:
    takeover: bool
    level: int
    window_bits: int
    memory_level: int
    min_size: int
    def __init__(
        self,
        scratch: Scratch,
        level: int,
        min_size: int,
        takeover: bool = False,
        window_bits: int = 15,
        memory_level: int = 8,
    ) -> None: ...
    def encode(self, message: bytes) -> bytes: ...

class Inflater:
    takeover: bool
    window_bits: int
    def __init__(self, scratch: Scratch, takeover: bool = False, window_bits: int = 15) -> None: ...
    def decode(self, payload: bytes, limit: int, work_max: int = ...) -> bytes | int: ...

class CompressionPool:
    scratch: Scratch
    deflater: Deflater
    inflater: Inflater
    rate: float
    worker_rate: float
    level: int
    memory_level: int
    inflated_messages: int
    inflated_bytes: int
    budget_closed: int
    def __init__(self, level: int, min_size: int, memory_level: int, rate: float, worker_rate: float) -> None: ...
    def open(
        self,
        server_takeover: bool = False,
        client_takeover: bool = False,
        server_window_bits: int = 15,
        client_window_bits: int = 15,
        stranger: bool = False,
    ) -> Compression: ...

class Compression:
    deflater: Deflater
    failure: int
    reason: bytes
    @property
    def is_shared(self) -> bool: ...
    def trust(self) -> None: ...
    def received(self, payload: bytes, message_max: int, now: float) -> bytes | None: ...
