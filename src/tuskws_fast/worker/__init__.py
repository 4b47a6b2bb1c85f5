"""A worker process: owns client sockets, sessions, and the fan-out to its own members."""
