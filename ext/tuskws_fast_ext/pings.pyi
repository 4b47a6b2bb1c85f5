from tuskws_fast_ext.tables import RateTable

class Caller:
    rate_key: int
    address_key: int
    faults: int
    refused_in_row: int

class Pings:
    answered: int
    def __init__(self, rates: RateTable, started_us: int) -> None: ...
    def limit(self, interval_us: float, burst: int, address_interval_us: float, address_burst: int) -> None: ...
