"""The compiled half of the server: rings, shared tables, frames, connections, fan-out. Imports nothing of ours."""
