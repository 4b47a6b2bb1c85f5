"""Where no node of ours answers, its counters are unknown, not zero."""

from tuskws_bench import counted


def test_no_node_is_none(tmp_path):
    assert counted.broker_records(tmp_path / "control.sock") is None
