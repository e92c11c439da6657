#!/usr/bin/env python3
"""Cuts the sample of real records from the full data set, always the same rows.

    zstd -dc commits.ndjson.zst | ./cut.py | zstd -19 --no-progress > commits-sample.ndjson.zst

Rule: take the streams whose CRC-32 leaves STREAM_REST modulo STREAM_STRIDE, and of all their rows together (in the
order of the file, which is the order of time) every ROW_STRIDE-th. Choosing by stream keeps the heavy tail: a few
authors with hundreds of rows, most with one. A second row of a (stream, time) already kept is left out, so that a
first import of the sample reports no conflict. Rows are copied byte for byte.
"""

import json
import sys
import zlib

STREAM_STRIDE = 6
STREAM_REST = 1
ROW_STRIDE = 7


def main() -> None:
    seen = set()
    matching = 0
    for line in sys.stdin.buffer:
        record = json.loads(line)
        if zlib.crc32(record["stream"].encode()) % STREAM_STRIDE != STREAM_REST:
            continue
        matching += 1
        if matching % ROW_STRIDE != 1:
            continue
        key = (record["stream"], record["time_us"])
        if key in seen:
            continue
        seen.add(key)
        sys.stdout.buffer.write(line)


if __name__ == "__main__":
    main()
