"""What is run, and what is demanded of its figures. A scenario is a node, a crowd and an order of blows.

A run: everybody joins ─▶ calm ─▶ faults ─▶ silence, until all is answered and heard ─▶ what the server keeps and who is
there goes into the chronicle ─▶ the judge. A `Demand` compares one of his figures with a bound; his faults must be none
in any scenario.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import damage, power
from audit.build import BROKER_STEPS
from audit.chronicle import Chronicle, events
from audit.crowd import Crowd
from audit.disk import number_of
from audit.judge import Judge
from audit.nemesis import Blow, mixed
from audit.node import Node
from audit.verdict import Verdict
from tuskws_fast.broker.limits import EngineLimits

GRACE_S = 2.0
# A new broker may hear only after `announce_s` who is gone; the grace comes then.
REST_S = EngineLimits().announce_s + GRACE_S + 1.0
KEEP = 100_000
# All of ten minutes stays: 240 MB, and what snapshots say of it again.
ROOMY = {"journal_size": "1GiB"}
# A step that nobody reaches within this time is not waited for any longer.
STEP_S = 3.0


@dataclass(frozen=True, slots=True)
class Demand:
    figure: str
    least: float | None = None
    most: float | None = None

    def met(self, figures: dict[str, float]) -> bool:
        value = figures.get(self.figure, 0)
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        bounds = [f"at least {self.least:g}"] if self.least is not None else []
        return " and ".join(bounds + ([f"at most {self.most:g}"] if self.most is not None else []))


@dataclass(slots=True)
class Plan:
    """`rate`: messages a second in each room."""

    name: str
    seed: int
    seconds: float
    calm_s: float = 5.0
    workers: int = 4
    rooms: int = 10
    members: int = 10
    publishers: int = 2
    readers: int = 1
    rate: float = 20.0
    synced: float = 0.0
    remembers: bool = False
    only: str = ""
    flags: dict[str, Any] = field(default_factory=dict)
    demands: list[Demand] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    verdict: Verdict
    unmet: list[Demand]
    demands: list[Demand]

    @property
    def good(self) -> bool:
        return self.verdict.clean and not self.unmet


class Stage:
    """What blows are carried out on."""

    def __init__(self, plan: Plan, node: Node, crowd: Crowd, chronicle: Chronicle, rng: random.Random) -> None:
        self.plan = plan
        self.node = node
        self.crowd = crowd
        self.chronicle = chronicle
        self.rng = rng
        # Of its own: how often it is asked depends on what the disk did.
        self._fate = random.Random(rng.random())

    async def strike(self, blow: Blow) -> None:
        await getattr(self, f"_{blow.what}")(blow)
        await asyncio.sleep(blow.pause_s)

    async def publishing_again(self) -> None:
        """Everything that was ordered before is answered, and more is."""
        acks = self.crowd.acks + 20
        await self.crowd.until(lambda: self.crowd.acks >= acks, "publications are acknowledged again", 30)

    def pick(self, kind: str, pick: float) -> str:
        names = self.node.worker_names() if kind == "worker" else ["broker 0"]
        return names[int(pick * len(names))] if names else "worker 0"

    # -- blows ---------------------------------------------------------------------------------------------------------

    async def _kill(self, blow: Blow) -> None:
        if blow.target in ("node", "supervisor"):
            await self._end_node(blow.target, powerless=False)
            return
        name = self.pick(blow.target, blow.pick)
        if self.node.signal(name, signal.SIGKILL) is not None:
            self.chronicle.write("fault", "kill", name)

    async def _die(self, blow: Blow) -> None:
        """A death at a step; by whom is known when it has happened."""
        before: dict[str, int] = {}
        self.node.switches.arm(blow.detail)
        deadline = time.monotonic() + STEP_S
        while self.node.switches.armed(blow.detail) and time.monotonic() < deadline:
            # Who reaches it may have been born a moment ago.
            before = {**self.node.children(), **before}
            await asyncio.sleep(0.002)
        if self.node.switches.disarm(blow.detail):
            self.chronicle.write("fault", "unreached", blow.detail)
            return
        self.chronicle.write("fault", "died", blow.detail)
        # The file goes first, and the process a moment later.

        def gone() -> list[str]:
            after = self.node.children()
            return [name for name, pid in before.items() if after.get(name) != pid]

        await self.crowd.until(lambda: bool(gone()), "who has reached a step is dead", STEP_S)
        for name in gone():
            self.chronicle.write("fault", "kill", name)

    async def _stop(self, blow: Blow) -> None:
        name = "supervisor" if blow.target == "supervisor" else self.pick(blow.target, blow.pick)
        pid = self.node.signal(name, signal.SIGSTOP)
        if pid is None:
            return
        self.chronicle.write("fault", "stop", name)
        deadline = time.monotonic() + blow.seconds
        killed = False
        while time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            if name != "supervisor" and not killed and self.node.children().get(name) != pid:
                # Its supervisor lost patience.
                self.chronicle.write("fault", "hanged", name)
                killed = True
        if not killed:
            self.node.signal(name, signal.SIGCONT)
            self.chronicle.write("fault", "continue", name)

    async def _power(self, blow: Blow) -> None:
        await self._end_node("node", powerless=self.plan.remembers)

    async def _end_node(self, how: str, powerless: bool) -> None:
        loop = asyncio.get_running_loop()
        self.chronicle.write("dark", powerless)
        await loop.run_in_executor(None, self.node.kill_supervisor if how == "supervisor" else self.node.kill_all)
        if powerless:
            share = self._fate.choice((0.0, 0.5, 1.0))
            power.cut(self.node.data / "journal", self.node.build, lambda: self._fate.random() < share)
            power.cut_settings(self.node.data, self.node.build, lambda: self._fate.random() < share)
            self.chronicle.write("cut")
        self.node.switches.heal()
        self.node.start()
        await loop.run_in_executor(None, self.node.wait_ready)

    async def _damage(self, blow: Blow) -> None:
        """Every process dies, and a segment of the journal rots: on the disk, so that no loss of power mends it."""
        loop = asyncio.get_running_loop()
        self.chronicle.write("dark", False)
        await loop.run_in_executor(None, self.node.kill_all)
        segments = [each for each in sorted((self.node.data / "journal").glob("*.seg")) if each.stat().st_size]
        if segments:
            path = self._fate.choice(segments)
            where = int(blow.pick * damage.used_bytes(path) * (1 if blow.detail == "cut" else 8))
            self.chronicle.write("damage", f"{path.name} {blow.detail} {where}")
            copy = self.node.build / "disk" / number_of(path)
            for each in (path, copy):
                if each.exists() and each.stat().st_size > (where if blow.detail == "cut" else where // 8):
                    damage.spoil(each, where, blow.detail == "cut")
        logged = len(self.node.log.read_bytes())
        self.node.switches.heal()
        self.node.start()
        await loop.run_in_executor(None, self.node.wait_ready)
        if segments and b"the journal is damaged" in self.node.log.read_bytes()[logged:]:
            self.chronicle.write("alarm")

    async def _disk(self, blow: Blow) -> None:
        operation, error = blow.detail.split()
        self.chronicle.write("fault", "disk", blow.detail)
        self.node.switches.fail(operation, error)
        await asyncio.sleep(blow.seconds)
        self.node.switches.heal()

    async def _clock(self, blow: Blow) -> None:
        self.chronicle.write("fault", "clock", blow.detail)
        self.node.switches.set_clock(float(blow.detail))

    async def _churn(self, blow: Blow) -> None:
        """Clients that come and go as they do."""
        for _ in range(3):
            speaker = self._fate.choice(self.crowd.speakers)
            self._fate.choice((speaker.break_off, speaker.go, speaker.leave))()


# -- scenarios -------------------------------------------------------------------------------------------------------


async def workers(stage: Stage, until: float) -> None:
    while time.monotonic() < until:
        began = time.monotonic()
        await stage.strike(Blow("kill", "worker", pick=stage.rng.random(), pause_s=0.0))
        await asyncio.sleep(max(0.0, 2.0 - (time.monotonic() - began)))


async def broker(stage: Stage, until: float) -> None:
    """Every second death is at a step of its own."""
    kills = 0
    while time.monotonic() < until:
        if kills % 2:
            await stage.strike(Blow("die", detail=BROKER_STEPS[kills // 2 % len(BROKER_STEPS)], pause_s=0.0))
        else:
            await stage.strike(Blow("kill", "broker", pause_s=0.0))
        kills += 1
        await stage.publishing_again()
        # One that is killed sooner after its birth is kept waiting longer each time (`supervisor.backoff`).
        await asyncio.sleep(stage.rng.uniform(1.1, 1.5))


async def node(stage: Stage, until: float) -> None:
    while time.monotonic() < until:
        what, target = stage.rng.choice((("kill", "node"), ("kill", "supervisor"), ("power", ""), ("power", "")))
        await stage.strike(Blow(what, target, pause_s=stage.rng.uniform(1.5, 3.0)))


async def stops(stage: Stage, until: float) -> None:
    """At least once each of what is promised, then again while there is time."""
    while True:
        for target, seconds in (("worker", 3.0), ("broker", 3.0), ("worker", 30.0), ("broker", 30.0)):
            await stage.strike(Blow("stop", target, "", seconds, stage.rng.random(), 3.0))
        if time.monotonic() > until:
            return


async def mixture(stage: Stage, until: float) -> None:
    for blow in mixed(stage.rng, stage.plan.only):
        await stage.strike(blow)
        if time.monotonic() > until:
            return


ACTS: dict[str, Callable[[Stage, float], Awaitable[None]]] = {
    "workers": workers,
    "broker": broker,
    "node": node,
    "stops": stops,
    "mixed": mixture,
}
_WHOLE = [Demand("lost_unhurt", most=0), Demand("unrecovered", most=0)]


def plan_for(name: str, seed: int, seconds: float, **changes: Any) -> Plan:
    plan = Plan(name, seed, seconds)
    if name == "workers":
        plan.calm_s, plan.members, plan.rate = 20.0, 20, 100.0
        plan.flags = {**plan.flags, **ROOMY}
        plan.demands = [*_WHOLE, Demand("gaps", most=0), Demand("return p99 s", most=3.0)]
        plan.demands += [Demand("latency p99, faults to calm", most=2.0)]
    elif name == "broker":
        plan.rate, plan.flags = 10.0, {**plan.flags, **ROOMY}
        plan.demands = [
            *_WHOLE,
            Demand("closed", most=0),
            Demand("gaps", most=0),
            Demand("outage of kill broker: max s", most=2.0),
        ]
    elif name == "node":
        plan.remembers, plan.synced, plan.rate = True, 0.1, 10.0
    elif name == "stops":
        plan.demands = [Demand("gaps", most=0), *_WHOLE[1:]]
    elif name == "mixed":
        plan.remembers, plan.synced = True, 0.05
    for option, value in changes.items():
        if value is not None:
            setattr(plan, option, value)
    return plan


async def run(plan: Plan, directory: Path, command: str) -> None:
    """Everything but the judging; the chronicle is `directory/chronicle`."""
    rng = random.Random(f"nemesis {plan.seed}")
    node = Node(
        directory,
        plan.workers,
        plan.remembers,
        **{
            "history_size": KEEP,
            "history_bytes": "256MiB",
            "history_bytes_total": "4GiB",
            "history_ttl": "12h",
            "dedupe_window": "5m",
            "journal_size": "32MiB",
            "leave_grace": f"{GRACE_S:g}s",
            **plan.flags,
        },
    )
    chronicle = Chronicle(directory / "chronicle")
    chronicle.write(
        "run", {"scenario": plan.name, "seed": plan.seed, "seconds": plan.seconds, "keep": KEEP, "command": command}
    )
    loop = asyncio.get_running_loop()
    node.start()
    try:
        await loop.run_in_executor(None, node.wait_ready)
        chance = random.Random(f"crowd {plan.seed}")
        crowd = Crowd(
            node, chronicle, chance, plan.rooms, plan.members, plan.publishers, plan.readers, synced=plan.synced
        )
        await crowd.open()
        stage = Stage(plan, node, crowd, chronicle, rng)
        crowd.publish(plan.rate)
        chronicle.write("phase", "calm")
        await asyncio.sleep(plan.calm_s)
        chronicle.write("phase", "faults")
        await ACTS[plan.name](stage, time.monotonic() + plan.seconds)
        node.switches.heal()
        node.resume_all()
        chronicle.write("phase", "quiet")
        await crowd.hush()
        await crowd.tell(REST_S)
        await _close(crowd, chronicle)
    finally:
        node.stop()
        chronicle.close()


async def _close(crowd: Crowd, chronicle: Chronicle) -> None:
    """What comes while everybody leaves is not judged."""
    chronicle.write("phase", "end")
    chronicle.flush()
    for speaker in crowd.speakers:
        speaker.stop()
    for reader in crowd.readers:
        await reader.close()


def judge(path: Path, demands: list[Demand]) -> Outcome:
    judge = Judge()

    def until_the_end() -> Any:
        for event in events(path):
            if event[0] == "phase" and event[2] == "end":
                return
            yield event

    verdict = judge.take_all(until_the_end())
    return Outcome(verdict, [each for each in demands if not each.met(verdict.figures)], demands)


def clear(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
