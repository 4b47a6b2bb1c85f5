"""How workers and the broker reach each other: memory, rings, records."""
