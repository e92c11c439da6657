"""Owns a get of many keys: cutting it into frames, asking again for what did not fit, putting the answers in order.

Never decides about retries: a key whose answer is not final goes on as a Get of its own, under the rules of all calls.
Invariant: each key ends with one answer.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

from .call import Call
from .codes import BODY_BYTES_BEFORE_HELLO, ITEMS_MAX, Limit, Outcome
from .engine import Engine
from .errors import ThermoclineError, TooLarge, UnexpectedReply
from .replies import Reply
from .requests import Get, MultiGet

# What a MultiGet costs besides its keys, and the least that an item of its reply takes.
REQUEST_HEAD_BYTES, KEY_HEAD_BYTES = 8, 24
REPLY_HEAD_BYTES, ITEM_BYTES_MIN = 24, 20

Answer = Union[Reply, ThermoclineError]
Keys = Sequence[Tuple[int, Get]]


def multi_get(engine: Engine, gets: Sequence[Get], frame_bytes: int, timeout_s: float) -> List[Answer]:
    """The reply, or the error, for each of `gets`, in their order. `frame_bytes` is the agreed body limit."""
    deadline = engine.clock() + timeout_s
    answers: List[Optional[Answer]] = [None] * len(gets)
    left: List[Tuple[int, Get]] = list(enumerate(gets))
    single: Dict[int, Call] = {}
    while left:
        calls = [
            (part, engine.start(MultiGet(tuple(get for _, get in part)), deadline - engine.clock()))
            for part in _parts(engine, left, frame_bytes)
        ]
        before, left = len(left), []
        for part, call in calls:
            left.extend(_collect(engine, part, call, answers, single, deadline))
        if len(left) == before:
            # Not one of them fitted: each may have a frame of its own.
            single.update((at, engine.start(get, deadline - engine.clock())) for at, get in left)
            left = []
    for at, call in single.items():
        answers[at] = _outcome(call)
    return [answer for answer in answers if answer is not None]


def _parts(engine: Engine, keys: Keys, frame_bytes: int) -> Iterator[Keys]:
    """Cuts keys so that request and reply fit into a frame, and each part has one way: to caches, or to one group."""
    limit = frame_bytes or BODY_BYTES_BEFORE_HELLO
    count_max = min(ITEMS_MAX, (limit - REPLY_HEAD_BYTES) // ITEM_BYTES_MIN)
    by_way: Dict[Tuple[bool, int], List[Tuple[int, Get]]] = {}
    now_us = engine.wall_us()
    for at, get in keys:
        is_for_cache = bool(engine.router.caches(get, now_us))
        by_way.setdefault((is_for_cache, engine.router.group_of(get)), []).append((at, get))
    for group in by_way.values():
        part: List[Tuple[int, Get]] = []
        part_bytes = REQUEST_HEAD_BYTES
        for at, get in group:
            key_bytes = KEY_HEAD_BYTES + len(get.stream)
            if part and (len(part) == count_max or part_bytes + key_bytes > limit):
                yield part
                part, part_bytes = [], REQUEST_HEAD_BYTES
            part.append((at, get))
            part_bytes += key_bytes
        yield part


def _collect(
    engine: Engine,
    part: Keys,
    call: Call,
    answers: List[Optional[Answer]],
    single: Dict[int, Call],
    deadline: float,
) -> List[Tuple[int, Get]]:
    """Takes the answer to one MultiGet; gives the keys that did not fit into it."""
    answer = _outcome(call)
    if isinstance(answer, ThermoclineError):
        if isinstance(answer, TooLarge) and answer.limit is Limit.Frame and len(part) > 1:
            return list(part)
        for at, _ in part:
            answers[at] = answer
        return []
    items: Dict[int, Reply] = dict(answer.body.items)
    if len(items) != len(part):
        for at, _ in part:
            answers[at] = UnexpectedReply(f"{len(items)} answers to {len(part)} keys", where="MultiGet")
        return []
    unfit = []
    for index, (at, get) in enumerate(part):
        item = items[index]
        if item.outcome in (Outcome.Ok, Outcome.NotFound, Outcome.NotModified):
            answers[at] = item
        elif item.outcome is Outcome.TooLarge and item.body.limit is Limit.Frame:
            unfit.append((at, get))
        else:
            # As if this Get had been sent by itself: the answer decides what comes next.
            single[at] = engine.start_answered(get, item, call, deadline - engine.clock())
    return unfit


def _outcome(call: Call) -> Answer:
    try:
        return call.wait()
    except ThermoclineError as error:
        return error
