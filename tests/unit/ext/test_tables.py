"""The shared tables one call at a time, and with several processes asking for the same thing at once."""

from __future__ import annotations

import math
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from helpers.forked import fork_to, kill, reap
from tuskws_fast_ext import tables
from tuskws_fast_ext.tables import AdmissionTable, Counters, RateTable, TableError

from tuskws_fast.ipc.segment import Segment

KEY = 0x9E3779B97F4A7C15
STEP_US = 10_000.0  # 100 a second


@contextmanager
def memory(size: int) -> Iterator[memoryview]:
    segment = Segment.create("test-table", size)
    try:
        yield segment.buffer
    finally:
        os.close(segment.fd)


def together(bodies: list[Callable[[], None]]) -> None:
    """Runs all at once, each in a process of its own; any failure there is a failure here."""
    start_read, start_write = os.pipe()

    def after_start(body: Callable[[], None]) -> Callable[[], None]:
        def wait_then_run() -> None:
            os.read(start_read, 1)
            body()

        return wait_then_run

    pids = [fork_to(after_start(body)) for body in bodies]
    os.write(start_write, b"x" * len(bodies))
    ends = [reap(pid, 60) for pid in pids]
    os.close(start_read)
    os.close(start_write)
    assert ends == [0] * len(bodies)


# -- counters ----------------------------------------------------------------------------------------------------


def test_counters_add_set_and_are_read_by_anyone() -> None:
    with memory(tables.counters_bytes(3, 20)) as buffer:
        rows = [Counters(buffer, row, 20) for row in range(3)]
        rows[0].add(4)
        rows[0].add(4, 10)
        rows[2].set(4, 100)
        rows[2].add(4, -1)
        rows[1].set(19, 2**64 - 1)
        assert (rows[0].get(4), rows[2].get(4), rows[1].get(19)) == (11, 99, 2**64 - 1)
        assert rows[1].read_row(2) == [0, 0, 0, 0, 99, *[0] * 15]
        assert rows[0].sum_column(4) == 110


def test_a_cleared_row_leaves_the_others_alone() -> None:
    with memory(tables.counters_bytes(2, 3)) as buffer:
        first, second = (Counters(buffer, row, 3) for row in range(2))
        for column in range(3):
            first.set(column, 5)
            second.set(column, 7)
        first.clear_row()
        assert first.read_row(0) == [0, 0, 0]
        assert first.read_row(1) == [7, 7, 7]


def test_counters_beyond_the_table_are_refused() -> None:
    with memory(tables.counters_bytes(2, 3)) as buffer:
        counters = Counters(buffer, 1, 3)
        for use in (
            lambda: counters.add(3),
            lambda: counters.get(99),
            lambda: counters.sum_column(3),
            lambda: counters.read_row(2),
            lambda: Counters(buffer, 2, 3),
            lambda: Counters(buffer, 0, 4),
        ):
            with pytest.raises(TableError):
                use()


def test_a_counter_read_while_it_is_written_only_grows() -> None:
    with memory(tables.counters_bytes(1, 1)) as buffer:

        def write() -> None:
            mine = Counters(buffer, 0, 1)
            for _ in range(200_000):
                mine.add(0, 0x1_0001_0001)

        pid = fork_to(write)
        reader, last = Counters(buffer, 0, 1), 0
        while last < 200_000 * 0x1_0001_0001:
            now = reader.get(0)
            assert now >= last
            assert now % 0x1_0001_0001 == 0, "half of an addition was seen"
            last = now
        assert reap(pid) == 0


# -- what all tables refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attach",
    [
        lambda buffer: Counters(buffer, 0, 4),
        RateTable,
        lambda buffer: AdmissionTable(buffer, 0, 4),
        lambda buffer: AdmissionTable(buffer, 0, 5),
    ],
)
def test_memory_is_one_table_for_good(attach: Callable[[memoryview], object]) -> None:
    with memory(8192) as buffer:
        Counters(buffer, 0, 5)
        with pytest.raises(TableError, match="another kind or width"):
            attach(buffer)
    with memory(8192) as buffer:
        attach(buffer)
        attach(buffer)
        with pytest.raises(TableError, match="another kind or width"):
            Counters(buffer, 0, 5)


@pytest.mark.parametrize(
    "attach",
    [lambda buffer: Counters(buffer, 0, 4), RateTable, lambda buffer: AdmissionTable(buffer, 0, 4)],
)
def test_memory_that_is_too_small_or_off_the_line_is_refused(attach: Callable[[memoryview], object]) -> None:
    with memory(8192) as buffer:
        with pytest.raises(TableError, match="too few"):
            attach(buffer[:128])
        with pytest.raises(TableError, match="128-byte line"):
            attach(buffer[8:])


def test_a_closed_table_refuses_everything_and_frees_the_memory() -> None:
    segment = Segment.create("test-table", 8192)
    rates = RateTable(segment.buffer)
    with pytest.raises(BufferError):
        segment.close()
    rates.close()
    with pytest.raises(TableError, match="closed"):
        rates.take(KEY, 0, 1, STEP_US, 5)
    segment.close()
    with memory(8192) as buffer:
        admission, counters = AdmissionTable(buffer, 0, 1), Counters(memoryview(buffer)[4096:], 0, 1)
        admission.close()
        counters.close()
        for use in (
            lambda: admission.admit(KEY, 1),
            lambda: admission.release(KEY),
            lambda: admission.count(KEY),
            lambda: admission.clear_column(0),
            lambda: admission.refused,
            lambda: rates.evicted,
            lambda: counters.add(0),
            lambda: counters.sum_column(0),
            lambda: counters.read_row(0),
        ):
            with pytest.raises(TableError, match="closed"):
                use()


# -- rates -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rates() -> Iterator[RateTable]:
    with memory(tables.rates_bytes(64)) as buffer:
        yield RateTable(buffer)


def test_a_burst_then_the_rate(rates: RateTable) -> None:
    now = 1_000_000
    assert [rates.take(KEY, now, 1, STEP_US, 5) for _ in range(5)] == [0.0] * 5
    assert rates.take(KEY, now, 1, STEP_US, 5) == pytest.approx(0.01)
    assert rates.take(KEY, now + 9_999, 1, STEP_US, 5) == pytest.approx(0.000001)
    assert rates.take(KEY, now + 10_000, 1, STEP_US, 5) == 0.0
    assert rates.take(KEY, now + 10_000, 1, STEP_US, 5) > 0


def test_looking_takes_nothing(rates: RateTable) -> None:
    assert [rates.wait(KEY, 0, 1, STEP_US, 5) for _ in range(10)] == [0.0] * 10
    assert [rates.take(KEY, 0, 1, STEP_US, 5) for _ in range(5)] == [0.0] * 5
    assert rates.wait(KEY, 0, 1, STEP_US, 5) == rates.take(KEY, 0, 1, STEP_US, 5) == pytest.approx(0.01)


def test_waiting_as_long_as_told_is_enough_and_less_is_not(rates: RateTable) -> None:
    rng, now = random.Random(6), 0
    for _ in range(500):
        cost = rng.randrange(1, 6)
        wait = rates.take(KEY, now, cost, STEP_US, 5)
        if wait:
            early = now + round(wait * 1e6) - 1
            assert rates.take(KEY, early, cost, STEP_US, 5) == pytest.approx(1e-6)
            now = early + 1
            assert rates.take(KEY, now, cost, STEP_US, 5) == 0.0


def test_a_refused_command_costs_nothing(rates: RateTable) -> None:
    rates.take(KEY, 0, 4, STEP_US, 5)
    for _ in range(100):
        assert rates.take(KEY, 0, 2, STEP_US, 5) > 0
    assert rates.take(KEY, 0, 1, STEP_US, 5) == 0.0


def test_more_than_the_burst_is_never_allowed_at_once(rates: RateTable) -> None:
    assert rates.take(KEY, 0, 6, STEP_US, 5) == math.inf
    assert rates.take(KEY, 0, 5, STEP_US, 5) == 0.0


def test_an_idle_user_saves_up_no_more_than_the_burst(rates: RateTable) -> None:
    rates.take(KEY, 0, 5, STEP_US, 5)
    much_later = 10**12
    assert [rates.take(KEY, much_later, 1, STEP_US, 5) == 0 for _ in range(6)] == [True] * 5 + [False]


def test_users_do_not_share_a_rate(rates: RateTable) -> None:
    rng = random.Random(7)
    for _ in range(40):
        user = rng.getrandbits(64)
        assert [rates.take(user, 50, 1, STEP_US, 2) == 0 for _ in range(3)] == [True, True, False]
    assert rates.evicted == 0


def test_a_fraction_of_a_microsecond_never_raises_the_rate(rates: RateTable) -> None:
    interval = 1e6 / 3  # three a second
    accepted = sum(rates.take(KEY, now, 1, interval, 1) == 0 for now in range(0, 10_000_000, 1000))
    assert 29 <= accepted <= 31


def test_a_smaller_burst_after_a_reload_is_an_empty_bucket_not_a_long_punishment(rates: RateTable) -> None:
    rates.take(KEY, 0, 200, STEP_US, 200)
    assert rates.take(KEY, 0, 1, STEP_US, 5) == pytest.approx(0.01)


@pytest.mark.parametrize(("interval_us", "burst"), [(0.0, 5), (-1.0, 5), (math.nan, 5), (1e12, 5), (1.0, 2**41)])
def test_a_limit_that_is_none(rates: RateTable, interval_us: float, burst: int) -> None:
    with pytest.raises(TableError):
        rates.take(KEY, 0, 1, interval_us, burst)


@pytest.mark.parametrize("start", [2**46 - 25_000, 2**46 - 1, 2**46, 3 * 2**46 - 60_000])
def test_limits_hold_while_the_clock_of_a_word_wraps(rates: RateTable, start: int) -> None:
    accepted = sum(rates.take(KEY, now, 1, STEP_US, 5) == 0 for now in range(start, start + 100_000, 100))
    assert accepted == 5 + 9


def test_around_the_wrap_too_a_word_of_the_past_goes_before_one_that_is_live() -> None:
    with memory(tables.HEADER_BYTES + 64) as buffer:
        rates, now = RateTable(buffer), 2**46 - 1000
        for user in range(1, 8):
            rates.take(user << 46, now, 5, STEP_US, 5)  # live until after the wrap: small numbers in memory
        rates.take(8 << 46, now - 90_000, 1, STEP_US, 5)  # past: a large number
        assert rates.take(9 << 46, now, 5, STEP_US, 5) == 0.0
        assert rates.evicted == 0
        assert all(rates.take(user << 46, now, 1, STEP_US, 5) for user in (1, 2, 3, 4, 5, 6, 7, 9))


def test_words_of_the_past_are_taken_over_without_loss() -> None:
    with memory(tables.HEADER_BYTES + 64) as buffer:  # one bucket of eight
        rates = RateTable(buffer)
        for lap in range(50):
            now = lap * 1_000_000
            for user in range(8):
                assert rates.take((lap * 8 + user + 1) << 46, now, 5, STEP_US, 5) == 0.0
        assert rates.evicted == 0


def test_when_all_eight_are_live_the_one_with_least_to_lose_goes_and_is_counted() -> None:
    with memory(tables.HEADER_BYTES + 64) as buffer:
        rates = RateTable(buffer)
        users = [n << 46 for n in range(1, 10)]
        for spent, user in enumerate(users[:8], 1):
            rates.take(user, 0, spent, STEP_US, 9)
        assert rates.take(users[8], 0, 9, STEP_US, 9) == 0.0
        assert rates.evicted == 1
        assert rates.take(users[7], 0, 2, STEP_US, 9) > 0, "who has spent 8 of 9 is still known"
        assert rates.take(users[1], 0, 8, STEP_US, 9) > 0, "who has spent 2 of 9 is still known"
        assert rates.take(users[0], 0, 9, STEP_US, 9) == 0.0, "who had spent 1 was forgotten"


def in_step(turn: memoryview, worker: int, n: int) -> None:
    """Waits until the other of two processes has come as far, so that both go on in the same moment."""
    turn[worker] = n
    while turn[1 - worker] < n:
        pass


def test_two_processes_that_ask_at_once_get_one_burst_between_them() -> None:
    """Both meet at thousands of new users, so they race for the word's place as well as for what it allows."""
    users, burst, asks = 20_000, 7, 6
    with memory(tables.rates_bytes(users * 4)) as buffer, memory(64) as shared:
        turn, accepted = shared[:8].cast("I"), shared[8:24].cast("Q")

        def ask(worker: int) -> None:
            rates, rng, got = RateTable(buffer), random.Random(8), 0
            for n in range(1, users + 1):
                user = rng.getrandbits(64)
                in_step(turn, worker, n)
                # Clocks of processes differ by some microseconds; no command is earned in so few.
                got += sum(rates.take(user, 5 + i + worker, 1, STEP_US, burst) == 0 for i in range(asks))
            assert rates.evicted == 0
            accepted[worker] = got

        together([lambda: ask(0), lambda: ask(1)])
        assert sum(accepted) == users * burst


def test_processes_that_ask_for_one_user_over_time_get_the_rate_and_one_burst() -> None:
    interval, burst, seconds = 50.0, 100, 0.5  # 20,000 a second
    with memory(tables.rates_bytes(8)) as buffer, memory(8 * 2) as accepted:
        start = time.monotonic_ns()

        def ask(worker: int) -> None:
            rates, got, now = RateTable(buffer), 0, 0
            while now < seconds * 1e6:
                now = (time.monotonic_ns() - start) // 1000
                got += rates.take(KEY, now, 1, interval, burst) == 0
            struct.pack_into("<Q", accepted, worker * 8, got)

        together([lambda: ask(0), lambda: ask(1)])
        total = sum(struct.unpack("<2Q", accepted))
        took = (time.monotonic_ns() - start) / 1e9
        assert total <= 20_000 * took + burst
        assert total > burst, "and some were allowed"


# -- admission ---------------------------------------------------------------------------------------------------


def workers(buffer: memoryview, n: int) -> list[AdmissionTable]:
    return [AdmissionTable(buffer, worker, n) for worker in range(n)]


def test_the_limit_counts_over_all_workers() -> None:
    with memory(tables.admission_bytes(10, 3)) as buffer:
        table = workers(buffer, 3)
        assert [table[i % 3].admit(KEY, 5) for i in range(7)] == [True] * 5 + [False] * 2
        assert table[0].count(KEY) == 5
        table[1].release(KEY)
        assert table[2].admit(KEY, 5)
        assert not table[0].admit(KEY, 5)
        assert table[1].count(KEY + 2**20) == 0


def test_a_worker_can_release_only_what_it_was_admitted() -> None:
    with memory(tables.admission_bytes(10, 2)) as buffer:
        first, second = workers(buffer, 2)
        first.admit(KEY, 5)
        with pytest.raises(TableError, match="does not hold"):
            second.release(KEY)
        first.release(KEY)
        with pytest.raises(TableError, match="does not hold"):
            first.release(KEY)
        assert first.count(KEY) == 0


def test_a_dead_workers_share_vanishes_and_nobody_elses() -> None:
    with memory(tables.admission_bytes(100, 3)) as buffer:
        table = workers(buffer, 3)
        rng = random.Random(9)
        keys = [rng.getrandbits(64) for _ in range(50)]
        for key in keys:
            for worker in (0, 1, 1, 2):
                assert table[worker].admit(key, 10)
        table[0].clear_column(1)
        assert [table[2].count(key) for key in keys] == [2] * 50
        with pytest.raises(TableError, match="does not hold"):
            table[1].release(keys[0])


def test_keys_come_and_go_for_ever_in_a_small_table() -> None:
    with memory(tables.admission_bytes(16, 2)) as buffer:
        table = workers(buffer, 2)
        for key in range(5000):
            hashed = key * KEY % 2**64
            assert table[key % 2].admit(hashed, 1)
            assert not table[1 - key % 2].admit(hashed, 1)
            table[key % 2].release(hashed)
        assert table[0].refused == 0


def test_a_full_window_refuses_and_counts() -> None:
    with memory(tables.HEADER_BYTES + 4 * 16) as buffer:  # four slots
        (table,) = workers(buffer, 1)
        keys = [n << 10 for n in range(1, 6)]
        assert [table.admit(key, 9) for key in keys] == [True] * 4 + [False]
        assert table.refused == 1
        table.release(keys[2])
        assert table.admit(keys[4], 9)
        assert [table.count(key) for key in keys] == [1, 1, 0, 1, 1]


def test_no_key_hash_is_special() -> None:
    with memory(tables.admission_bytes(8, 1)) as buffer:
        (table,) = workers(buffer, 1)
        for key in (0, 1, 1023, 2**64 - 1):
            assert table.admit(key, 2**32)
            table.release(key)
            assert table.count(key) == 0


def mark_as_being_taken(buffer: memoryview, by: int) -> None:
    """What tables.h draws: a taker puts its number plus one into the low bits of the key, here of the first slot."""
    (key,) = struct.unpack_from("<Q", buffer, tables.HEADER_BYTES)
    struct.pack_into("<Q", buffer, tables.HEADER_BYTES, key | by + 1)


def test_whoever_is_counted_in_a_slot_that_is_being_taken_still_counts() -> None:
    with memory(tables.HEADER_BYTES + 2 * 16) as buffer:
        first, second = workers(buffer, 2)
        key = 2 << 10  # even, so of the first of two slots
        assert first.admit(key, 1)
        mark_as_being_taken(buffer, by=0)
        assert second.count(key) == 1
        assert not second.admit(key, 1)
        assert second.admit(key, 2), "in the other slot"
        first.release(key)
        assert second.count(key) == 1


def test_a_slot_that_a_killed_worker_was_taking_is_free_again_after_its_column_is_cleared() -> None:
    with memory(tables.HEADER_BYTES + 16) as buffer:
        first, second = workers(buffer, 2)
        first.admit(5 << 10, 9)
        first.release(5 << 10)
        mark_as_being_taken(buffer, by=1)
        assert not first.admit(6 << 10, 9), "somebody is at it"
        first.clear_column(0)
        assert not first.admit(6 << 10, 9), "the mark is not worker 0's"
        first.clear_column(1)
        assert first.admit(6 << 10, 9)
        assert not second.admit(7 << 10, 9), "the slot is in use"


def test_workers_beyond_the_table_are_refused() -> None:
    with memory(65536) as buffer:
        for worker, n in ((2, 2), (0, 0), (0, tables.WORKERS_MAX + 1)):
            with pytest.raises(TableError):
                AdmissionTable(buffer, worker, n)
        table = AdmissionTable(buffer, 0, 2)
        with pytest.raises(TableError, match="worker 2 of 2"):
            table.clear_column(2)


# More keys than slots, so slots are taken over all the time while others count themselves in.
CHURNED_SLOTS, CHURNED_KEYS = 3, 8
CHURN_ROUNDS = 300_000


def churned_table(buffer: memoryview, worker: int) -> tuple[AdmissionTable, list[int]]:
    return AdmissionTable(buffer, worker, 2), [n * KEY % 2**64 for n in range(CHURNED_KEYS)]


def test_two_processes_are_never_both_in_where_one_is_allowed() -> None:
    """With a limit of one, admission is a lock: what is written inside must still stand at the end."""
    with memory(tables.HEADER_BYTES + CHURNED_SLOTS * 16) as buffer, memory(8 * CHURNED_KEYS) as inside:
        cells = inside.cast("Q")

        def enter_and_leave(worker: int) -> None:
            table, keys = churned_table(buffer, worker)
            rng, me, entered = random.Random(worker), worker + 1, 0
            for _ in range(CHURN_ROUNDS):
                n = rng.randrange(CHURNED_KEYS)
                if table.admit(keys[n], 1):
                    assert cells[n] == 0, "another was admitted before"
                    cells[n] = me
                    entered += 1
                    assert cells[n] == me, "another was admitted meanwhile"
                    cells[n] = 0
                    table.release(keys[n])
            assert entered > CHURN_ROUNDS // 4

        together([lambda: enter_and_leave(0), lambda: enter_and_leave(1)])
        table, keys = churned_table(buffer, 0)
        assert [table.count(key) for key in keys] == [0] * CHURNED_KEYS


def test_processes_that_fill_a_new_key_at_once_admit_exactly_the_limit() -> None:
    limit, keys = 6, 20_000
    with memory(tables.admission_bytes(keys, 2)) as buffer, memory(8) as shared:
        turn = shared.cast("I")

        def fill(worker: int) -> None:
            table, rng = AdmissionTable(buffer, worker, 2), random.Random(10)
            for n in range(1, keys + 1):
                key = rng.getrandbits(64)
                in_step(turn, worker, n)
                admitted = sum(table.admit(key, limit) for _ in range(limit))
                assert admitted >= 1 or table.count(key) >= 1

        together([lambda: fill(0), lambda: fill(1)])
        table, rng = AdmissionTable(buffer, 0, 2), random.Random(10)
        for _ in range(keys):
            key = rng.getrandbits(64)
            # The very last place may have been refused to both; it is there for whoever asks next.
            assert limit - 1 <= table.count(key) <= limit
            while table.admit(key, limit):
                pass
            assert table.count(key) == limit
        assert table.refused == 0


def test_workers_killed_in_the_middle_of_it_leave_nothing_behind_once_cleared() -> None:
    rng = random.Random(11)
    with memory(tables.HEADER_BYTES + CHURNED_SLOTS * 16) as buffer:
        survivor, keys = churned_table(buffer, 0)

        def come_and_go() -> None:
            table, rng = churned_table(buffer, 1)[0], random.Random(time.monotonic_ns())
            while True:
                key = rng.choice(keys)
                if table.admit(key, 2) and rng.random() < 0.9:
                    table.release(key)

        for _ in range(60):
            pid = fork_to(come_and_go)
            mine = []
            for _ in range(rng.randrange(200, 2000)):
                key = rng.choice(keys)
                if survivor.admit(key, 2):
                    mine.append(key)
                if mine and rng.random() < 0.6:
                    survivor.release(mine.pop())
            kill(pid)
            survivor.clear_column(1)
            assert [survivor.count(key) for key in keys] == [mine.count(key) for key in keys]
            for key in mine:
                survivor.release(key)
            assert all(survivor.admit(key, 1) for key in keys[:CHURNED_SLOTS]), "a slot is stuck"
            for key in keys[:CHURNED_SLOTS]:
                survivor.release(key)
