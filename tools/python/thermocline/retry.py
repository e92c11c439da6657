"""Owns what to do after an answer, or after none: the table of section 10 as a pure function.

Never sleeps, sends or looks at a clock. Invariant: a write is reported as not done only where every sending of it is
known to have done nothing; else it is reported as UnknownOutcome.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Optional, Set, Union

from . import errors
from .codes import Outcome
from .replies import Reply

# First wait where the server gives no hint (no replica is current, a read that timed out), in seconds; doubles.
WAIT_FIRST_S = 0.01
# Longest wait, but for a Busy whose hint is longer.
WAIT_MAX_S = 1.0
# What a Busy without a hint is taken for.
HINT_MIN_S = 0.002


@dataclass
class History:
    """What has happened to one request. `expected` is that of a CompareAndSet, else None.

    `open_sendings` counts sendings that may have been carried out, or may still be: those without an answer. Every
    answer but Ok and UnknownOutcome says that its sending did nothing and will do nothing.
    """

    operation: str
    is_write: bool
    expected: Optional[int] = None
    open_sendings: int = 0
    busy_count: int = 0
    turned_away: int = 0
    corrupt_at: Set[str] = field(default_factory=set)
    last: Optional[errors.ThermoclineError] = None

    @property
    def may_have_applied(self) -> bool:
        return self.is_write and self.open_sendings > 0


@dataclass(frozen=True)
class Done:
    """The reply is the answer."""

    reply: Reply


@dataclass(frozen=True)
class Report:
    """The error is the answer."""

    error: errors.ThermoclineError


@dataclass(frozen=True)
class Again:
    """Send again after `wait_s`; to the next replica, once the map is fetched, with a new id: as the flags say."""

    wait_s: float = 0.0
    next_replica: bool = False
    fetch_map: bool = False
    new_id: bool = False


Decision = Union[Done, Report, Again]


def decide(history: History, reply: Reply, endpoint: str, replica_count: int, rng: random.Random) -> Decision:
    """What becomes of a request after this reply from `endpoint`, one of `replica_count`. Updates the history."""
    where = f"{history.operation} at {endpoint}"
    outcome = reply.outcome
    # The sending that is answered here is no longer open.
    history.open_sendings = max(0, history.open_sendings - 1)
    if outcome in (Outcome.Ok, Outcome.NotFound, Outcome.NotModified):
        return Done(reply)
    if outcome is Outcome.Busy:
        wait_s = busy_wait_s(reply.body.hint_ms, history.busy_count, rng)
        history.busy_count += 1
        history.last = errors.Busy(reply.body.limit, reply.body.hint_ms, where=where)
        return Again(wait_s)
    if outcome is Outcome.NotCurrent:
        history.last = errors.NotCurrent(where=where)
        return Again(_wait(history, replica_count, rng), next_replica=True)
    if outcome is Outcome.WrongGroup:
        history.last = errors.WrongGroup(reply.body.epoch, where=where)
        # The first time the map is old; if the new one says the same again, wait for the next one.
        return Again(_wait(history, 1, rng), fetch_map=True)
    if outcome is Outcome.Timeout:
        history.last = errors.Timeout(where=where)
        return Again(_wait(history, 1, rng))
    if outcome is Outcome.Corrupt:
        history.last = errors.Corrupt(where=where)
        history.corrupt_at.add(endpoint)
        if not history.is_write and len(history.corrupt_at) < replica_count:
            return Again(_wait(history, replica_count, rng), next_replica=True)
        return report(history, history.last)
    if outcome is Outcome.UnknownOutcome:
        if reply.body.too_old and history.open_sendings == 0:
            # This sending applied nothing and no other can have: nothing happened. A new id, with this log time.
            history.last = errors.UnknownOutcome(where=where, too_old=True)
            return Again(_wait(history, 1, rng), new_id=True)
        return Report(errors.UnknownOutcome(where=where, too_old=reply.body.too_old))
    if outcome is Outcome.VersionMismatch:
        error = errors.VersionMismatch(reply.body.current, where=where)
        if history.expected == 0:
            return report(history, error)
        # An applied compare-and-set would have been answered Ok to a retry.
        return Report(error)
    if outcome is Outcome.TooLarge:
        return report(history, errors.TooLarge(reply.body.limit, where=where))
    if outcome is Outcome.BadRequest:
        return report(history, errors.BadRequest(reply.body.why, reply.body.at, where=where))
    assert outcome is Outcome.Unauthorized, outcome
    return report(history, errors.Unauthorized(where=where))


def busy_wait_s(hint_ms: int, count: int, rng: random.Random) -> float:
    """Seconds to wait after the `count`-th Busy in a row, counted from 0."""
    hint_s = max(HINT_MIN_S, hint_ms / 1000)
    # Doubling ends at the longest wait; a longer hint is the server's own word.
    return min(hint_s * 2 ** min(count, 16), max(hint_s, WAIT_MAX_S)) * rng.uniform(0.5, 1.5)


def report(history: History, error: errors.ThermoclineError) -> Report:
    """Reports this error; of a write that an earlier sending may have applied, UnknownOutcome because of it."""
    if not history.may_have_applied:
        return Report(error)
    unknown = errors.UnknownOutcome(where=error.where or history.operation)
    unknown.__cause__ = error
    return Report(unknown)


def expire(history: History) -> errors.ThermoclineError:
    """The error when the deadline has passed. Its cause is what stood in the way last."""
    where = history.operation
    error: errors.ThermoclineError = errors.Timeout(where=where)
    if history.may_have_applied:
        error = errors.UnknownOutcome(where=where)
    elif history.last is not None:
        error = errors.Timeout(where=where, to_do=f"the last answer was: {history.last}")
    error.__cause__ = history.last
    return error


def _wait(history: History, free_tries: int, rng: random.Random) -> float:
    """Seconds to wait after being turned away without a hint: none for the first `free_tries` times."""
    history.turned_away += 1
    doublings = history.turned_away - free_tries - 1
    if doublings < 0:
        return 0.0
    wait_s: float = min(WAIT_MAX_S, WAIT_FIRST_S * 2 ** min(doublings, 16))
    return wait_s * rng.uniform(0.5, 1.5)
