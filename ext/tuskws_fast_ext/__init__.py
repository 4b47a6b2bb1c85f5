"""The compiled half of the server: rings, shared tables, frames, connections, fan-out. A leaf: imports nothing of ours."""
