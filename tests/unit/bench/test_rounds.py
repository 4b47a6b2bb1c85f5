"""In which order contenders run, what is repeated and how often, and which run counts."""

from dataclasses import replace

from helpers.bench_runs import a_run
from tuskws_bench.contenders import CLoop
from tuskws_bench.plan import Scenario
from tuskws_bench.result import Result, compose
from tuskws_bench.rounds import Entry, Rounds, median
from tuskws_bench.run import RunError


def result(**changes: object) -> Result:
    return replace(compose(Scenario("fanout"), a_run()), **{"foreign_cores": 0.0, **changes})


class Recorded:
    """Stands where a server would be started: says what each run found, remembers who ran with what."""

    def __init__(self, *found: Result | RunError) -> None:
        self.found = list(found)
        self.ran: list[tuple[str, int]] = []

    def once(self, entry, wire, on_progress):
        self.ran.append((entry.name, wire))
        found = self.found.pop(0) if self.found else result()
        if isinstance(found, RunError):
            raise found
        return found


def rounds(names: str, recorded: Recorded, **numbers: int) -> list[Entry]:
    entries = [Entry(name, CLoop, Scenario("fanout")) for name in names]
    Rounds(entries, watch=lambda label: lambda *seen: None, once=recorded.once, **numbers).run()
    return entries


def order(recorded: Recorded) -> str:
    return "".join(name for name, _ in recorded.ran)


def test_contenders_take_turns():
    recorded = Recorded()
    rounds("ABC", recorded, runs=2)
    assert order(recorded) == "ABCABC"


def test_a_disturbed_run_is_repeated_until_enough_are_quiet():
    recorded = Recorded(result(foreign_cores=1.0), result(), result(foreign_cores=1.0))
    entries = rounds("AB", recorded, runs=1, repeats=5)
    assert order(recorded) == "ABAA"
    assert [len(entry.quiet) for entry in entries] == [1, 1]


def test_repeats_have_an_end():
    recorded = Recorded(*[result(foreign_cores=1.0) for _ in range(9)])
    rounds("A", recorded, runs=2, repeats=3)
    assert order(recorded) == "AAAAA"


def test_who_failed_is_not_tried_again_and_the_others_go_on():
    recorded = Recorded(RunError("no answer in time"))
    entries = rounds("AB", recorded, runs=2, repeats=2)
    assert order(recorded) == "ABB"
    assert entries[0].failed == "no answer in time"
    assert len(entries[1].results) == 2


def test_peers_send_frames_as_long_as_our_pushes_were():
    recorded = Recorded(result(wire_bytes_per_delivery=262.6))
    rounds("AB", recorded, runs=1)
    assert recorded.ran == [("A", 0), ("B", 263)]


def test_a_compressed_push_says_nothing_about_length():
    compressed = replace(result(wire_bytes_per_delivery=90.0), scenario={**result().scenario, "compression": True})
    recorded = Recorded(compressed)
    rounds("AB", recorded, runs=1)
    assert recorded.ran[1] == ("B", 0)


def rate(found: Result) -> float:
    return found.deliveries_per_s


def test_the_median_round_counts_not_the_best():
    assert median([result(deliveries_per_s=float(each)) for each in (5, 1, 3)], rate).deliveries_per_s == 3


def test_of_two_rounds_the_worse_rate_counts():
    assert median([result(deliveries_per_s=float(each)) for each in (5, 1)], rate).deliveries_per_s == 1


def test_each_percentile_is_the_median_of_its_own():
    found = [
        result(deliveries_per_s=per_s, latency_us={"p50": p50, "p99": p99, "max": 100 + p50})
        for per_s, p50, p99 in ((1.0, 1, 99), (2.0, 3, 70), (3.0, 2, 80))
    ]
    assert median(found, rate).latency_us == {"p50": 2, "p99": 80, "max": 103}


def test_rounds_disturbed_by_others_do_not_count_where_there_is_a_quiet_one():
    found = [result(deliveries_per_s=9.0, foreign_cores=1.0) for _ in range(2)] + [result(deliveries_per_s=5.0)]
    assert median(found, rate).deliveries_per_s == 5
