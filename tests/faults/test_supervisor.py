"""Births and deaths of real processes: a supervisor over tiny children, killed in every way there is."""

import os
import signal
import time
from pathlib import Path

from helpers.tiny_node import ask, tiny_node, wait_for_end, wait_until

ALL = ("broker 0", "worker 0", "worker 1")


def ask_worker(port: int, line: str, slot: int) -> list[str]:
    """Connect until the kernel's choice of listener is the worker meant."""
    for _ in range(200):
        answer = ask(port, "who")
        if answer[1] == str(slot):
            answer = ask(port, line)
            if line == "who" or not answer or answer[1] == str(slot):
                return answer
    raise AssertionError(f"worker {slot} was never chosen")


def test_every_process_is_named_and_ready() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        for name in ALL:
            assert Path(f"/proc/{pids[name]}/comm").read_text().strip() == name.replace(" ", "-")
            title = Path(f"/proc/{pids[name]}/cmdline").read_bytes().rstrip(b"\0").decode()
            assert title == f"tuskws-fast: {name}"


def test_a_worker_and_the_broker_are_given_the_same_link_of_one_generation() -> None:
    with tiny_node(workers=2) as node:
        for slot in (0, 1):
            for process in ("broker 0", f"worker {slot}"):
                link = node.expect("link", process, fields={"worker": slot, "generation": 1})
                assert link["fds"] == 3


def test_a_killed_worker_is_running_again_within_a_second() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        os.kill(pids["worker 1"], signal.SIGKILL)
        killed_at = time.monotonic()
        reborn = node.expect("born", "worker 1", generation=2)
        node.expect("listening", "worker 1", slot=1, pid=reborn["pid"])
        assert time.monotonic() - killed_at < 1.0


def test_a_workers_death_is_told_to_the_broker_before_the_next_generation() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        node.expect("link", "broker 0", fields={"worker": 1, "generation": 1})
        os.kill(pids["worker 1"], signal.SIGKILL)
        gone = node.expect("link_gone", "broker 0")
        assert gone["fields"] == {"worker": 1, "generation": 1}
        node.expect("rung", "broker 0")
        node.expect("link", "broker 0", fields={"worker": 1, "generation": 2})
        node.expect("link", "worker 1", fields={"worker": 1, "generation": 2})


def test_the_brokers_death_leaves_the_workers_and_gives_each_a_new_link() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        os.kill(pids["broker 0"], signal.SIGKILL)
        for slot in (0, 1):
            name = f"worker {slot}"
            node.expect("rung", name)
            node.expect("link_gone", name, fields={"worker": slot, "generation": 1})
            node.expect("link", name, fields={"worker": slot, "generation": 2}, pid=pids[name])
            node.expect("link", "broker 0", fields={"worker": slot, "generation": 2})


def test_what_a_dead_worker_held_is_free_and_what_it_counted_stays() -> None:
    with tiny_node(workers=1) as node:
        port = node.start()["port"]
        _, _, pid, admitted, gauge, counter = ask(port, "hold")
        assert (admitted, gauge, counter) == ("1", "1", "1")
        os.kill(int(pid), signal.SIGKILL)
        node.expect("born", "worker 0", generation=2)
        assert ask(port, "who")[3:] == ["0", "0", "1"]


def test_a_process_whose_loop_stands_still_is_killed_and_replaced() -> None:
    with tiny_node(workers=2, hang_s=0.5) as node:
        pids = node.start()["pids"]
        os.kill(pids["worker 0"], signal.SIGSTOP)
        node.expect("born", "worker 0", generation=2)
        os.kill(pids["broker 0"], signal.SIGSTOP)
        node.expect("born", "broker 0", generation=2)


def test_a_supervisor_that_was_stopped_itself_does_not_blame_its_children() -> None:
    with tiny_node(workers=2, hang_s=0.5) as node:
        pids = node.start()["pids"]
        everyone = [pids["supervisor"], *(pids[name] for name in ALL)]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        wait_until(lambda: time.monotonic() - stopped_at > 1.0, "longer than the patience with a silent child")
        os.kill(pids["supervisor"], signal.SIGCONT)
        # It has looked at its children, and slept again, before one of them could beat.
        turns = _turns(pids["supervisor"])
        wait_until(lambda: _turns(pids["supervisor"]) > turns + 1, "the supervisor has looked at its children")
        for name in ALL:
            os.kill(pids[name], signal.SIGCONT)
        node.signal(signal.SIGTERM)
        assert not any(node.expect("over")["restarts"])


def test_a_boot_failure_stops_the_node_with_its_reason() -> None:
    with tiny_node(workers=2, refuse=["worker 1"]) as node:
        code, log = node.finish()
        assert code == 3
        assert "stopped: worker 1: this machine is too small" in log


def test_a_process_that_ends_five_times_before_it_is_ready_stops_the_node() -> None:
    with tiny_node(workers=2, crash_at_boot=["worker 0"], backoff_s=0.01) as node:
        code, log = node.finish()
        assert code == 3
        assert "stopped: worker 0: exit code 7, 5 times in a row before it was ready" in log
        assert log.count("ended unexpectedly") == 4


def test_a_process_that_gives_no_sign_of_life_while_starting_is_a_boot_failure() -> None:
    with tiny_node(workers=2, silent=["broker 0"], boot_s=0.3) as node:
        code, log = node.finish()
        assert code == 3
        assert "stopped: broker 0: no sign of life for 0.3 s while starting" in log


def test_processes_that_others_kill_while_they_start_do_not_stop_the_node() -> None:
    with tiny_node(workers=1, never_ready=["worker 0"], backoff_s=0.01) as node:
        for generation in range(1, 8):
            node.expect("listening", "worker 0")
            os.kill(node.expect("born", "worker 0", generation=generation)["pid"], signal.SIGKILL)
        node.expect("born", "worker 0", generation=8)


def test_a_process_that_is_not_ready_yet_but_beats_is_left_alone() -> None:
    """A worker waits for its broker, which may itself be between two births."""
    with tiny_node(workers=2, never_ready=["worker 0"], boot_s=1.0, hang_s=1.0) as node:
        born_at = time.monotonic()
        node.expect("listening", "worker 0")
        wait_until(lambda: time.monotonic() - born_at > 3.0, "much longer than the boot timeout")
        node.signal(signal.SIGTERM)
        assert not any(node.expect("over")["restarts"])


def test_a_killed_supervisor_leaves_no_process_not_even_one_that_stands_still() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        os.kill(pids["worker 1"], signal.SIGSTOP)
        os.kill(pids["supervisor"], signal.SIGKILL)
        for name in ALL:
            wait_for_end(pids[name])


def test_sigterm_drains_the_workers_then_the_broker() -> None:
    with tiny_node(workers=2, drain_s=7) as node:
        node.start()
        node.signal(signal.SIGTERM)
        order = []
        for _ in ALL:
            drain = node.expect("drain")
            assert 5 < drain["fields"]["deadline_s"] <= 7
            order.append(drain["process"])
            node.expect("ended", drain["process"])
        assert order[2] == "broker 0"
        code, log = node.finish()
        assert code == 0
        assert "draining" in log


def test_a_process_that_does_not_drain_in_time_is_killed() -> None:
    with tiny_node(workers=2, drain_s=0.2, never_drained=["worker 1"]) as node:
        node.start()
        node.signal(signal.SIGTERM)
        code, log = node.finish()
        assert code == 4
        assert 'the drain timed out: killing  left="worker 1"' in log
        node.expect("drain", "broker 0")


def test_a_second_interrupt_kills_at_once() -> None:
    with tiny_node(workers=2, drain_s=600, never_drained=ALL) as node:
        node.start()
        node.signal(signal.SIGINT)
        node.expect("drain", "worker 0")
        node.signal(signal.SIGINT)
        assert node.finish()[0] == 130


def test_a_signal_for_the_whole_group_does_not_reach_the_children() -> None:
    """A terminal sends SIGINT, a service manager SIGTERM, to every process of the node."""
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        for name in ALL:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pids[name], number)
        node.signal(signal.SIGTERM)
        for name in ALL:
            node.expect("ended", name, pid=pids[name])
        assert node.finish()[0] == 0


def test_sighup_is_passed_on_as_reload() -> None:
    with tiny_node(workers=2) as node:
        node.start()
        node.signal(signal.SIGHUP)
        for name in ALL:
            assert node.expect("reload", name)["fields"] == {"options": {"log_level": "debug"}}


def test_a_reload_that_is_asked_for_while_the_node_starts_comes_when_it_is_ready() -> None:
    with tiny_node(workers=1, never_ready=["worker 0"]) as node:
        node.expect("listening", "worker 0")
        node.signal(signal.SIGHUP)
        os.kill(node.expect("born", "worker 0")["pid"], signal.SIGKILL)
        node.expect("born", "worker 0", generation=2)
        node.signal(signal.SIGTERM)
        _, log = node.finish()
        assert "reloading" not in log
    with tiny_node(workers=1, ready_when_rung=["worker 0"]) as node:
        node.expect("listening", "worker 0")
        node.signal(signal.SIGHUP)
        node.signal(signal.SIGHUP)
        os.kill(node.expect("born", "broker 0")["pid"], signal.SIGKILL)
        node.start()
        node.expect("reload", "worker 0")


def test_a_listener_is_lent_to_a_neighbour_while_its_worker_stays_away() -> None:
    with tiny_node(workers=2, backoff_s=1.0, adopt_after_s=0.1) as node:
        started = node.start()
        node.expect("listening", "worker 1", slot=1)
        os.kill(started["pids"]["worker 1"], signal.SIGKILL)
        node.expect("adopt", "worker 0", fields={"slot": 1})
        node.expect("listening", "worker 0", slot=1)
        # Whichever listener the kernel chooses now, it is served.
        assert {ask(started["port"], "who")[1] for _ in range(20)} == {"0"}
        node.expect("listening", "worker 1", slot=1)
        node.expect("release", "worker 0", fields={"slot": 1})
        ask_worker(started["port"], "who", 1)


def test_a_lent_listener_goes_to_the_next_neighbour_when_the_first_one_dies_too() -> None:
    with tiny_node(workers=3, backoff_s=5.0, adopt_after_s=0.1) as node:
        pids = node.start()["pids"]
        os.kill(pids["worker 1"], signal.SIGKILL)
        node.expect("adopt", "worker 2", fields={"slot": 1})
        os.kill(pids["worker 2"], signal.SIGKILL)
        node.expect("adopt", "worker 0", fields={"slot": 1})
        node.expect("adopt", "worker 0", fields={"slot": 2})


def test_connections_made_while_a_worker_is_down_are_served_by_its_successor() -> None:
    with tiny_node(workers=1) as node:
        started = node.start()
        os.kill(started["pids"]["worker 0"], signal.SIGKILL)
        answers = [ask(started["port"], "who") for _ in range(20)]
        reborn = node.expect("born", "worker 0", generation=2)
        assert {answer[2] for answer in answers} == {str(reborn["pid"])}


def test_a_worker_that_accuses_the_broker_of_a_poisoned_ring_has_it_replaced() -> None:
    with tiny_node(workers=2) as node:
        started = node.start()
        ask(started["port"], "poison")
        node.expect("born", "broker 0", generation=2)
        node.signal(signal.SIGTERM)
        assert "poisoned a ring" in node.finish()[1]


def test_a_child_that_sends_nonsense_is_replaced_and_the_node_lives() -> None:
    with tiny_node(workers=1) as node:
        started = node.start()
        ask(started["port"], "babble")
        node.expect("born", "worker 0", generation=2)
        assert ask(started["port"], "who")[0] == "worker"


def test_a_child_holds_no_listener_but_its_own_and_no_line_of_another() -> None:
    with tiny_node(workers=2) as node:
        pids = node.start()["pids"]
        sockets = {name: _socket_inodes(pids[name]) for name in (*ALL, "supervisor")}
        for name in ALL:
            others = set().union(*(sockets[other] for other in ALL if other != name))
            assert not sockets[name] & others, f"{name} shares a socket with another child"
        # Its end of the control socket is its own; with the supervisor it shares the listener alone.
        assert len(sockets["worker 0"] & sockets["supervisor"]) == 1
        assert not sockets["broker 0"] & sockets["supervisor"]


def test_restarts_leak_no_descriptor_of_the_supervisor() -> None:
    with tiny_node(workers=1, backoff_s=0.01) as node:
        started = node.start()
        supervisor, pid = started["pids"]["supervisor"], started["pids"]["worker 0"]
        before = _fd_count(supervisor)
        for generation in range(2, 5):
            os.kill(pid, signal.SIGKILL)
            pid = node.expect("born", "worker 0", generation=generation)["pid"]
            node.expect("link", "worker 0", pid=pid)
        wait_until(lambda: _fd_count(supervisor) == before, "the supervisor holds as many descriptors as before")


def test_children_leave_no_core_files_and_gain_no_privileges() -> None:
    with tiny_node(workers=1) as node:
        pid = node.start()["pids"]["worker 0"]
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"


def _turns(pid: int) -> int:
    """How often a process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("voluntary_ctxt")).split()[1])


def _fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _socket_inodes(pid: int) -> set[str]:
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}
