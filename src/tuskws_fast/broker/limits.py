"""Every bound of the engine, once, each with its unit last. How often one was hit is counted under its field's name.

A bound that refuses a command answers it with an error code; one that makes something shorter (histories, dedupe,
lists) does so in a way the client can see: `recovered: false`, `more: true`.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """0 turns `max_room_members` and `max_rooms_per_user` off; everything else is always bounded."""

    shards: int = 64
    # rooms
    rooms_max: int = 1_000_000
    max_room_members: int = 0
    max_rooms_per_user: int = 50
    # Bans, mutes and invitations of one room together.
    sanctions_max: int = 10_000
    password_tries_max: int = 5
    password_window_s: float = 60.0
    # histories (of rooms and inboxes): defaults, and how far a room's settings may go
    history_size: int = 100
    history_size_max: int = 10_000
    history_ttl_s: float = 300.0
    history_ttl_max_s: float = 86_400.0
    history_bytes: int = MIB
    history_bytes_total_max: int = 1024 * MIB
    page_bytes: int = 256 * KIB
    # what a history has in memory where the journal has the rest; of that, what one answer may reach back for, how much
    # is in memory again at once and for how long, how many wait to be read, and the commands behind one of those
    history_memory: int = MIB
    replay_bytes_max: int = 16 * MIB
    fetched_bytes_max: int = 64 * MIB
    fetched_s: float = 10.0
    fetches_max: int = 64
    parked_max: int = 256
    # pages that were made for who came back, in case others do
    replays_s: float = 10.0
    replays_bytes_max: int = 64 * MIB
    # inboxes: what is kept until its user confirms it
    inbox_size: int = 1_000
    inbox_ttl_s: float = 7 * 86_400.0
    inbox_bytes: int = MIB
    # Users without a session for whom messages may wait.
    inboxes_max: int = 100_000
    # Of these, how many one sender may be the first to write to.
    inboxes_per_sender_max: int = 1_000
    # How long, and how many bytes of, what was confirmed is there for a connection that was told before it was ordered
    # who it is, and of which the broker hears only then.
    recent_s: float = 5.0
    recent_bytes_max: int = 64 * KIB
    # sessions: how long one can be resumed after its connection is gone, and how many such there may be
    keep_alive_s: float = 300.0
    resumable_max: int = 100_000
    # How long a session that is resumed elsewhere may take to let go.
    takeover_s: float = 1.0
    # receipts that are open: of all rooms, of one room; how long for, and how often one is told at most
    receipts_max: int = 10_000
    receipts_room_max: int = 100
    receipt_s: float = 30.0
    receipt_interval_s: float = 1.0
    # idempotency
    dedupe_window_s: float = 300.0
    dedupe_ids_max: int = 10_000
    dedupe_bytes_max: int = 64 * MIB
    # presence
    grace_s: float = 10.0
    presence_full_max: int = 200
    presence_state_max: int = 1_000
    presence_tick_s: float = 0.1
    stats_interval_s: float = 1.0
    # Lists of members told again in one `presence_tick_s`, after a broker's death.
    views_bytes: int = MIB
    # Users without a session whose inbox and last_seen are remembered, and for how long.
    offline_users_max: int = 100_000
    offline_ttl_s: float = 3_600.0
    # Of users and tokens, in force at once; and how long a token can be good at most, 0 is for ever.
    revocations_max: int = 100_000
    token_ttl_s: float = 86_400.0
    # lists
    list_rooms_max: int = 1_000
    # How long a new broker waits for workers to tell it what they know, counted from when one did last.
    announce_s: float = 2.0
