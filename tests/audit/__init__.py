"""The auditor: a real node, clients that write down all they said and saw, faults at moments that a seed chose, and a
judge that reads what was written.

    nemesis   pure: a seed ─▶ which fault when
    build     the node's processes with what a test needs in them: steps at which they die, disks that fail or forget,
              a clock that steps. Started instead of `tuskws_fast`, which knows nothing of it
    node      the processes from outside: started, killed, stopped, started again in the same directory
    disk      the journal's files, on a disk that fails, tears a write in two, and remembers what was synced
    power     what a loss of power leaves of a data directory
    speaker   a raw socket that publishes and listens, and comes back with `since` or `resume`
    crowd     all of them, clients of the library, and one who asks the server
    chronicle what happened, one line an event, in a file
    judge     pure: the chronicle ─▶ what was wrong, and figures
    scenarios which of all this together, and what is demanded of the figures
    damage    bits flipped and files cut short, one at a time

`scripts/faults SCENARIO --seed N` runs one; a failing run leaves its chronicle, and `scripts/faults judge FILE` reads
that again.
"""
