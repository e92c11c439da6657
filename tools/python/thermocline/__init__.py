"""A client of Thermocline, a storage appliance for time-ordered records. Written from net/PROTOCOL.md alone.

from thermocline import Client

with Client("127.0.0.1:7420") as client:
    client.put("user-1", 1_700_000_000_000_000, b"hello")
    print(client.get("user-1", 1_700_000_000_000_000).value)
"""

from .call import Call
from .client import NOT_MODIFIED, Client, NotModified, Written, delete_operation, put_operation
from .cluster_map import ClusterMap
from .codes import PROTOCOL_VERSION, TIME_MAX, Limit, Operation, Outcome, Why
from .errors import (
    BadRequest,
    Busy,
    ConnectionLost,
    Corrupt,
    InvalidArgument,
    NotCurrent,
    OperationError,
    ProtocolError,
    ThermoclineError,
    Timeout,
    TooLarge,
    Unauthorized,
    UnexpectedReply,
    UnknownOutcome,
    VersionMismatch,
    WrongGroup,
)
from .replies import Record

__all__ = [
    "NOT_MODIFIED",
    "PROTOCOL_VERSION",
    "TIME_MAX",
    "BadRequest",
    "Busy",
    "Call",
    "Client",
    "ClusterMap",
    "ConnectionLost",
    "Corrupt",
    "InvalidArgument",
    "Limit",
    "NotCurrent",
    "NotModified",
    "Operation",
    "OperationError",
    "Outcome",
    "ProtocolError",
    "Record",
    "ThermoclineError",
    "Timeout",
    "TooLarge",
    "Unauthorized",
    "UnexpectedReply",
    "UnknownOutcome",
    "VersionMismatch",
    "Why",
    "Written",
    "WrongGroup",
    "delete_operation",
    "put_operation",
]
