"""Connections that have ended leave nothing in a worker, not even until it would have looked at them."""

from __future__ import annotations

from helpers.clients import on_loop, people
from helpers.server import RunningServer, running_server
from helpers.waiting import eventually, pace

from tuskws_fast.supervisor.stats import read_stats

VISITORS = 200
# A session and its connection are a dozen blocks; caches and counters of the whole process grow by some hundreds.
BLOCKS_MAX = 4 * VISITORS
# Figures are up to a second old, and what is told of one tick was counted in it.
FIGURES_S = 2.5


def blocks_of_worker(server: RunningServer) -> int:
    (worker,) = [each for each in read_stats(server.control_socket)["processes"] if each["name"] == "worker 0"]
    return int(worker["blocks"])


async def visit(server: RunningServer) -> None:
    async with people(server) as crowd:
        for _ in range(VISITORS):
            await crowd.connect()
        for client in crowd.clients:
            await client.close()


@on_loop
async def test_visitors_who_have_gone_are_let_go_of_before_their_next_heartbeat_is_due() -> None:
    async with running_server(workers=1, heartbeat_interval="30s", keep_alive_timeout="0") as server:
        await visit(server)
        await pace(FIGURES_S)
        before = blocks_of_worker(server)
        await visit(server)
        await visit(server)

        async def is_as_before() -> bool:
            gone = server.figure("connections_closed") == 3 * VISITORS
            return gone and blocks_of_worker(server) - before < BLOCKS_MAX

        await eventually(is_as_before, "as much memory as before", timeout_s=8.0)
