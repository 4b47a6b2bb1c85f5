"""Root for as long as it takes to bind: then the whole node is another user, for good.

The supervisor changes itself before it forks, so no process of the node has ever handled a client's byte as root, and
PDEATHSIG, which a change of user would clear, is set by each child after it. In this order, because each step needs
what the next one takes away: supplementary groups, group, user. That nothing is left is asked, not assumed.

What the supervisor reads again later (a certificate's key, on SIGHUP) it reads as that user.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from tuskws_fast.errors import BootError, ConfigError
from tuskws_fast.supervisor.child import PR_SET_NO_NEW_PRIVS, prctl


@dataclass(frozen=True, slots=True)
class Account:
    """Who the node is to be. `name` is whose supplementary groups it gets."""

    name: str
    uid: int
    gid: int


def find_account(user: str, group: str) -> Account | None:
    """The account that the options name, by name or number; None without a user. Raises `ConfigError`."""
    if not user:
        if group:
            raise ConfigError("group: without a user it would do nothing")
        return None
    try:
        found = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user: there is no {user!r} on this machine") from None
    if not group:
        return Account(found.pw_name, found.pw_uid, found.pw_gid)
    try:
        gid = (grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)).gr_gid
    except KeyError:
        raise ConfigError(f"group: there is no {group!r} on this machine") from None
    return Account(found.pw_name, found.pw_uid, gid)


def become(account: Account) -> None:
    """Be `account` from here on. Raises `BootError` when that cannot be done, or could be undone."""
    if (os.getresuid(), os.getresgid()) == ((account.uid,) * 3, (account.gid,) * 3):
        return
    try:
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except PermissionError as error:
        raise BootError(f"cannot become user {account.name}: only root can") from error
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if account.uid != 0 and _can_be_root():
        raise BootError(f"cannot become user {account.name} for good: this process could be root again")


def _can_be_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True
