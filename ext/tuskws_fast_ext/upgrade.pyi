from enum import IntEnum

from tuskws_fast_ext.head import Head

class Fault(IntEnum):
    NONE = 0
    METHOD = 1
    VERSION = 2
    HOST = 3
    UPGRADE = 4
    CONNECTION = 5
    WEBSOCKET_VERSION = 6
    KEY = 7
    ORIGIN = 8
    BODY = 9
    SUBPROTOCOL = 10

class Upgrade:
    fault: int
    key: bytes
    offers_subprotocol: bool
    extensions: tuple[bytes, ...]

def judge(head: Head, subprotocol: bytes) -> Upgrade: ...
