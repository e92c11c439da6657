"""Owns every error that the package raises. Each says what happened, where, and what to do.

Never decides what is an error: that is the decoders' and the policy's. Invariant: whatever is raised on purpose is a
ThermoclineError, and an error that leaves a write unknown is an UnknownOutcome and no other.
"""

from __future__ import annotations

from typing import Optional

from .codes import Limit, Why


class ThermoclineError(Exception):
    """The base. `what` happened, `where` (endpoint, operation or offset; may be empty), what `to_do` about it."""

    def __init__(self, what: str, *, where: str = "", to_do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.to_do = to_do

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.to_do}" if self.to_do else text


class InvalidArgument(ThermoclineError, ValueError):
    """The caller gave something that the protocol cannot carry. Nothing was sent."""


# --- wrong bytes ---------------------------------------------------------------------------------------------------


class ProtocolError(ThermoclineError):
    """Bytes that are not the protocol. `kind` is the name that the document gives it."""

    kind = "Protocol"


class FrameError(ProtocolError):
    """A frame header or checksum is wrong (section 3). `found` is the wrong thing where there is one to show."""

    def __init__(self, kind: str, what: str, *, found: Optional[int] = None, limit: Optional[int] = None) -> None:
        super().__init__(what, where="frame header", to_do="drop the connection")
        self.kind = kind
        self.found = found
        self.limit = limit


class RequestError(ProtocolError):
    """The body of a request is wrong: `why`, `at` this offset of the body (section 7)."""

    kind = "BadRequest"

    def __init__(self, why: Why, at: int) -> None:
        super().__init__(f"the body of the request is wrong: {why.name}", where=f"byte {at}", to_do="do not send it")
        self.why = why
        self.at = at


class SizeError(ProtocolError):
    """Something in the body of a request is above this limit."""

    kind = "TooLarge"

    def __init__(self, limit: Limit) -> None:
        super().__init__(f"the request is above the limit {limit.name}", to_do="send less")
        self.limit = limit


class ReplyError(ProtocolError):
    """The body of a reply is wrong: `field`, `at` this offset of the body (section 8)."""

    kind = "BadReply"

    def __init__(self, field: str, at: int) -> None:
        super().__init__(f"the body of the reply is wrong: {field}", where=f"byte {at}", to_do="drop the connection")
        self.field = field
        self.at = at


class MapError(ProtocolError):
    """A cluster map is wrong: `of` "map", "node" or "group", and which one (`index`, from 0)."""

    kind = "BadMap"

    def __init__(self, of: str, index: int) -> None:
        super().__init__(f"the cluster map is wrong: {of} {index}", to_do="drop the connection")
        self.of = of
        self.index = index


class UnexpectedReply(ProtocolError):
    """A frame that is right by itself and has no place on this connection."""


# --- what became of a request --------------------------------------------------------------------------------------


class OperationError(ThermoclineError):
    """A request that did not succeed."""


class ConnectionLost(OperationError):
    """The connection could not be made, or ended. Seen by a caller only as the cause of Timeout or UnknownOutcome."""


class Busy(OperationError):
    """The server is at a limit; nothing was done. Seen by a caller only as the cause of a Timeout."""

    def __init__(self, limit: Limit, hint_ms: int, *, where: str = "") -> None:
        super().__init__(f"busy: the limit {limit.name} is reached", where=where, to_do=f"try again in {hint_ms} ms")
        self.limit = limit
        self.hint_ms = hint_ms


class NotCurrent(OperationError):
    """This replica is behind. Seen by a caller only as the cause of a Timeout."""

    def __init__(self, *, where: str = "") -> None:
        super().__init__("this replica is behind", where=where, to_do="ask another replica")


class WrongGroup(OperationError):
    """The bucket belongs to another group, and the client cannot compute which."""

    def __init__(self, epoch: int, *, where: str = "") -> None:
        super().__init__(
            f"the bucket belongs to another group (map {epoch})",
            where=where,
            to_do="give the client a stream_hash (xxh3-64), it needs one in a cluster of several groups",
        )
        self.epoch = epoch


class TooLarge(OperationError):
    """A size is above this limit; nothing was done."""

    def __init__(self, limit: Limit, *, where: str = "") -> None:
        super().__init__(f"too large: above the limit {limit.name}", where=where, to_do="send or ask for less")
        self.limit = limit


class BadRequest(OperationError):
    """The server refuses the request: `why`, `at` this offset of its body."""

    def __init__(self, why: Why, at: int, *, where: str = "") -> None:
        to_do = "do not send it again"
        if why is Why.Time:
            to_do = "write a time that is not more than a day ahead of the server's log time"
        super().__init__(f"bad request: {why.name} at byte {at} of the body", where=where, to_do=to_do)
        self.why = why
        self.at = at


class Unauthorized(OperationError):
    """The server does not accept the proof in Hello."""

    def __init__(self, *, where: str = "") -> None:
        super().__init__("unauthorized", where=where, to_do="check the token and the authentication method")


class Corrupt(OperationError):
    """No replica can prove what the record is: its bytes, or log entries that might hold it, are damaged."""

    def __init__(self, *, where: str = "") -> None:
        super().__init__("the record is damaged, or may be hidden by damage", where=where, to_do="repair the replica")


class VersionMismatch(OperationError):
    """Nothing was written. `current` is the version that the key has, 0 = absent, None = not known."""

    def __init__(self, current: Optional[int], *, where: str = "") -> None:
        seen = "is not known" if current is None else f"is {current}"
        super().__init__(
            f"the version is not the expected one (the current one {seen})",
            where=where,
            to_do="get the record, decide, and write anew",
        )
        self.current = current


class UnknownOutcome(OperationError):
    """The write may or may not have happened."""

    def __init__(self, *, where: str = "", too_old: bool = False) -> None:
        reason = ": its id is older than what the server keeps" if too_old else ""
        super().__init__(
            f"the write may or may not have happened{reason}", where=where, to_do="read before writing anew"
        )
        self.too_old = too_old


class Timeout(OperationError):
    """The deadline passed and nothing happened. The cause says what stood in the way last, if anything was heard."""

    def __init__(self, *, where: str = "", to_do: str = "try again, or with a longer deadline") -> None:
        super().__init__("the deadline passed, nothing happened", where=where, to_do=to_do)
