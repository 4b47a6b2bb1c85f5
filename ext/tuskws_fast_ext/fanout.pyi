from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.frame import Frame

def fan_out(members: dict[Connection, None], frame: Frame, exclude: Connection | None = None) -> int: ...
