"""The models in sizes that take minutes: `PYTHONPATH=tests python -m model`. Exit status 1: a fault was found."""

from __future__ import annotations

import sys

from model.drops import Drops
from model.explore import Found, Model, explore
from model.publish import Publish
from model.ring import Ring

BOTH = ("producer", "consumer")
LARGE: tuple[tuple[str, Model], ...] = (  # type: ignore[type-arg]
    ("ring: 3 records, 2 slots, either side dies", Ring(mortal=BOTH)),
    ("ring: 4 records, 2 slots, 1 a turn", Ring(records=4, batch=1)),
    ("ring: 5 records, 3 slots", Ring(records=5, slots=3)),
    ("drops: 5 messages, the member changes twice", Drops(messages=5, changes=2)),
    ("publish: 3 messages, two deaths of any", Publish(keys=("a", "b", "(c)"), deaths=(2, 1, 1))),
    ("publish: 2 messages, three deaths of any", Publish(deaths=(2, 1, 1), deaths_in_all=3)),
    ("publish: a disk that fails, two deaths", Publish(deaths=(1, 1, 1), disk=2)),
    ("publish: memory only, two deaths", Publish(deaths=(2, 0, 1), durable=False)),
)


def main() -> None:
    faults = 0
    for name, model in LARGE:
        found: Found = explore(model, states_max=5_000_000)
        print(f"{name}: {found}", flush=True)
        if found.fault is not None:
            faults += 1
            print(found.fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
