class Pace:
    frames: float
    size: float
    pings: float
    frames_closed: int
    bytes_closed: int
    pings_closed: int
    pongs_spared: int
    def __init__(self, frames: float = 0.0, size: float = 0.0, pings: float = 0.0) -> None: ...
