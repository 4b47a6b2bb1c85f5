"""One key, one publication: within a window, a number of ids a scope, and bytes in all."""

from tuskws_fast.rooms.dedupe import Dedupe, First, inbox_scope


def dedupe(window_s: float = 300.0, ids_max: int = 100, bytes_max: int = 1_000_000) -> Dedupe:
    return Dedupe(window_s, ids_max, bytes_max)


def remember(table: Dedupe, scope: str, key: str, offset: int = 1, now: float = 0.0) -> None:
    table.add(scope, "alice", key, First(now, "epoch", offset, 77, -1))


def test_a_key_is_found_by_its_scope_user_and_text() -> None:
    table = dedupe()
    table.add("chat", "alice", "k", First(0.0, "epoch", 5, 77, 2))
    first = table.find("chat", "alice", "k", 1.0)
    assert first == First(0.0, "epoch", 5, 77, 2)
    assert table.find("chat", "bob", "k", 1.0) is None
    assert table.find("other", "alice", "k", 1.0) is None
    assert table.find("chat", "alice", "K", 1.0) is None
    assert table.find(inbox_scope("chat"), "alice", "k", 1.0) is None


def test_the_window_closes_also_before_anyone_cleans_up() -> None:
    table = dedupe(window_s=10.0)
    remember(table, "chat", "k")
    assert table.find("chat", "alice", "k", 9.9) is not None
    assert table.find("chat", "alice", "k", 10.0) is None


def test_a_key_can_be_used_again_when_its_window_is_over() -> None:
    table = dedupe(window_s=10.0)
    remember(table, "chat", "k", offset=1, now=0.0)
    remember(table, "chat", "k", offset=9, now=10.0)
    first = table.find("chat", "alice", "k", 11.0)
    assert first is not None
    assert first.offset == 9
    assert len(table) == 1
    table.expire(20.0)
    assert (len(table), table.bytes) == (0, 0)


def test_a_full_scope_forgets_its_own_oldest_only() -> None:
    table = dedupe(ids_max=2)
    remember(table, "quiet", "q")
    for key in ("a", "b", "c"):
        remember(table, "busy", key)
    assert table.find("busy", "alice", "a", 1.0) is None
    assert table.find("busy", "alice", "c", 1.0) is not None
    assert table.find("quiet", "alice", "q", 1.0) is not None
    assert table.overflowed == 1


def test_bytes_bound_all_scopes_together_oldest_first() -> None:
    table = dedupe(bytes_max=1_500)
    remember(table, "one", "k")
    entry_bytes = table.bytes
    remember(table, "two", "k")
    remember(table, "three", "k")
    assert table.bytes == 3 * entry_bytes
    remember(table, "four", "k")
    assert table.find("one", "alice", "k", 1.0) is None
    assert table.find("two", "alice", "k", 1.0) is not None
    assert table.bytes <= 1_500


def test_expired_and_forgotten_entries_leave_nothing_behind() -> None:
    table = dedupe(window_s=10.0)
    for n in range(5):
        remember(table, "chat", f"k{n}", now=float(n))
    remember(table, "other", "k", now=5.0)
    assert table.next_expiry() == 10.0
    table.expire(12.0)
    assert len(table) == 3
    table.forget("chat")
    assert len(table) == 1
    table.expire(15.0)
    assert (len(table), table.bytes, table.next_expiry()) == (0, 0, None)


def test_order_survives_a_forgotten_scope() -> None:
    table = dedupe(window_s=10.0)
    remember(table, "a", "1", now=0.0)
    remember(table, "b", "1", now=1.0)
    remember(table, "a", "2", now=2.0)
    table.forget("a")
    remember(table, "a", "3", now=3.0)
    table.expire(11.0)
    assert len(table) == 1
    assert table.find("a", "alice", "3", 11.0) is not None
