"""The journal after everything that can happen to it: a process killed in a write, the power gone, a bit flipped.

killed        everything committed is there with its epoch and offset; of the batch that was being written, a part
power cut     everything synced is there; nothing that was not said is; every scope gets a new epoch
bit flipped   nothing that was not said is served; what is missing is told; a position is never given twice
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
from helpers.disk import PowerCutFiles
from helpers.journals import OTHER_BOOT, Model, Scribe, shown
from hypothesis import HealthCheck, given, settings

from tuskws_fast.storage.recovery import Recovered
from tuskws_fast.storage.segments import segment_number

SCOPES = ("room", "lobby", "\nann")
scopes = st.sampled_from(SCOPES)
operations = st.one_of(
    st.tuples(st.just("publish"), scopes, st.binary(min_size=0, max_size=400)),
    st.tuples(st.just("publish"), scopes, st.binary(min_size=0, max_size=40)),
    st.tuples(st.sampled_from(("open", "end", "confirm", "snapshot", "commit", "commit", "retire", "succeed")), scopes),
)
histories = st.lists(operations, max_size=60)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def written(history: list[tuple[object, ...]], cutting: bool = False) -> Iterator[Scribe]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Scribe(directory, PowerCutFiles(directory) if cutting else None) as scribe:
            for step in history:
                play(scribe, *step)
            yield scribe


def play(scribe: Scribe, operation: object, scope: str, body: bytes = b"") -> None:
    if operation == "publish":
        scribe.publish(scope, body)
    elif operation == "open":
        scribe.open(scope)
    elif operation == "end":
        scribe.end(scope)
    elif operation == "confirm":
        scribe.confirm(scope)
    elif operation == "snapshot" and scope in scribe.model:
        scribe.snapshot(scope)
    elif operation == "retire":
        scribe.retire()
    elif operation == "succeed":
        scribe.succeed()
    elif operation == "commit":
        scribe.commit()


def nothing_was_invented(scribe: Scribe, recovered: Recovered) -> None:
    said = {(scope, offset, body) for scope, _, offset, body in scribe.said}
    for scope, state in shown(recovered).items():
        for offset, body in state.kept.items():
            assert (scope, offset, body) in said


@quick
@given(histories)
def test_what_was_committed_is_there_after_every_process_is_killed(history: list[tuple[object, ...]]) -> None:
    with written(history) as scribe:
        scribe.commit()
        recovered = scribe.recovered()
        assert shown(recovered) == scribe.model
        assert not recovered.damage
        assert not any(state.renew for state in recovered.scopes.values())
        assert recovered.next_number == scribe.segments.next_number


@quick
@given(histories, st.lists(st.tuples(scopes, st.binary(max_size=300)), min_size=1, max_size=8), st.data())
def test_write_that_is_cut_short_costs_only_what_nobody_was_told(
    history: list[tuple[object, ...]], last: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    with written(history) as scribe:
        scribe.commit()
        models = [scribe.model_now()]
        before = {path: path.read_bytes() for path in scribe.directory.iterdir()}
        for scope, body in last:
            if scope not in scribe.model:
                scribe.open(scope)
                models.append(scribe.model_now())
            scribe.publish(scope, body)
            models.append(scribe.model_now())
        scribe.commit()
        # As if killed within the write: of the newest file a part has changed, the mark has not.
        newest = max(
            (p for p in scribe.directory.iterdir() if segment_number(p.name)), key=lambda p: segment_number(p.name)
        )
        after, old = newest.read_bytes(), before.get(newest, b"").ljust(newest.stat().st_size, b"\0")
        changed = [n for n in range(len(after)) if after[n] != old[n]]
        cut = data.draw(st.integers(changed[0], changed[-1])) if changed else 0
        newest.write_bytes(after[:cut] + old[cut:])
        mark = scribe.directory / "mark"
        mark.write_bytes(before[mark])
        recovered = scribe.recovered()
        if newest in before:
            assert shown(recovered) in models
            assert not any(state.renew for state in recovered.scopes.values())
            assert not recovered.damage
        nothing_was_invented(scribe, recovered)


@quick
@given(histories, histories, st.randoms(use_true_random=False))
def test_what_was_synced_is_there_after_a_loss_of_power(
    history: list[tuple[object, ...]], rest: list[tuple[object, ...]], random: object
) -> None:
    with written(history, cutting=True) as scribe:
        scribe.commit()
        scribe.sync()
        synced = scribe.model_now()
        for step in rest:
            if step[0] not in ("end", "snapshot", "retire"):
                play(scribe, *step)
        scribe.commit()
        assert isinstance(scribe.files, PowerCutFiles)
        scribe.files.cut(lambda: random.random() < 0.5)  # type: ignore[attr-defined]
        recovered = scribe.recovered(OTHER_BOOT)
        found = shown(recovered)
        for scope, state in synced.items():
            assert state.kept.items() <= found[scope].kept.items()
        assert all(state.renew for state in recovered.scopes.values())
        nothing_was_invented(scribe, recovered)


@quick
@given(histories)
def test_end_in_order_keeps_every_epoch_over_a_reboot(history: list[tuple[object, ...]]) -> None:
    with written(history, cutting=True) as scribe:
        scribe.close_in_order()
        scribe.commit()
        scribe.sync()
        scribe.files.cut(lambda: False)  # type: ignore[attr-defined]
        recovered = scribe.recovered(OTHER_BOOT)
        assert shown(recovered) == scribe.model
        assert not recovered.rewrite
        assert not any(state.renew for state in recovered.scopes.values())


def check_flip(model: Model, scribe: Scribe, recovered: Recovered) -> None:
    nothing_was_invented(scribe, recovered)
    found = shown(recovered)
    for scope, state in model.items():
        if found.get(scope) == state:
            continue
        assert recovered.damage, "what is missing is told"
        if scope in found and found[scope].top < state.top:
            assert recovered.scopes[scope].renew, "no offset of an epoch is given twice"
    for scope in found.keys() - model.keys():
        assert recovered.damage
        assert recovered.scopes[scope].renew


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.data())
def test_flipped_bit_is_never_served_and_never_silent(history: list[tuple[object, ...]], data: st.DataObject) -> None:
    with written(history) as scribe:
        scribe.publish("room", b"the last")
        scribe.commit()
        paths = sorted(path for path in scribe.directory.iterdir() if not path.name.startswith("spare"))
        path = data.draw(st.sampled_from(paths))
        content = bytearray(path.read_bytes())
        used = max(len(content.rstrip(b"\0")), 1)
        bit = data.draw(st.integers(0, 8 * used - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(content))
        check_flip(scribe.model, scribe, scribe.recovered())
