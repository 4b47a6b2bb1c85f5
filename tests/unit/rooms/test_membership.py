"""Members are users; interest is live sessions by worker."""

from tuskws_fast.rooms.membership import Membership


def test_only_the_first_and_the_last_session_of_a_user_matter() -> None:
    room = Membership()
    assert room.join("alice", 1, worker=0)
    assert not room.join("alice", 2, worker=0)
    assert len(room) == 1
    assert not room.leave("alice", 1, worker=0)
    assert room.leave("alice", 2, worker=0)
    assert len(room) == 0


def test_interest_comes_with_a_workers_first_member_and_goes_with_its_last() -> None:
    room = Membership()
    room.join("alice", 1, worker=0)
    room.join("bob", 2, worker=1)
    room.join("carol", 3, worker=1)
    assert room.interest() == {0: 1, 1: 2}
    room.leave("bob", 2, worker=1)
    assert set(room.workers) == {0, 1}
    room.leave("carol", 3, worker=1)
    assert room.workers == (0,)


def test_a_ghost_is_a_member_whom_no_worker_serves() -> None:
    room = Membership()
    room.join("alice", 1, worker=0)
    room.lose(1, worker=0)
    assert "alice" in room
    assert room.workers == ()
    assert room.leave("alice", 1, worker=0)
    assert room.ghosts == set()


def test_losing_a_session_twice_counts_once() -> None:
    room = Membership()
    room.join("alice", 1, worker=0)
    room.join("bob", 2, worker=0)
    room.lose(1, worker=0)
    room.lose(1, worker=0)
    assert room.interest() == {0: 1}


def test_a_user_with_a_ghost_and_a_new_session_stays_one_member() -> None:
    room = Membership()
    room.join("alice", 1, worker=0)
    room.lose(1, worker=0)
    assert not room.join("alice", 2, worker=1)
    assert room.workers == (1,)
    assert not room.leave("alice", 1, worker=0)
    assert room.conns_of("alice") == (2,)
    assert room.conns_of("bob") == ()
