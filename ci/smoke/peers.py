#!/usr/bin/env python3
"""Looks at the reports of smoke runs of `thermocline bench peers`, `sink` and `rebuild`: every row is there with our side, every
peer that is installed was measured in its rows, every side says its version, command and durability, and the page of HTML asks for nothing outside of it.

Owns no figures: how fast anything is, is not looked at. The bench itself fails a smoke run with a wrong answer. The last line is
N passed, N failed.
"""

import html.parser
import json
import shutil
import sys

# By bench: row, and the peers that belong in it, by the program each needs.
ROWS = {
    "peers": {
        "get-memory pipelined": {"redis": "redis-server", "memcached": "memcached"},
        "get-memory single": {"redis": "redis-server", "memcached": "memcached"},
        "get-disk 32": {"fio": "fio", "rocksdb": "db_bench"},
        "put-durable": {"fio": "fio", "rocksdb": "db_bench", "redis": "redis-server"},
        "put-cluster": {"etcd": "etcd curl"},
        **{f"ycsb {name}": {"redis": "redis-server"} for name in "abcdf"},
        "ycsb e": {},
        "scan": {"fio": "fio"},
    },
    "sink": {"sink": {"fio": "fio"}},
    "rebuild": {"rebuild": {"fio": "fio"}},
}
OWN = "thermocline"


class Page(html.parser.HTMLParser):
    """Counts elements; notes attributes that make a browser fetch something."""

    FETCHING = {"src", "href", "srcset", "data", "action"}

    def __init__(self):
        super().__init__()
        self.elements, self.fetched = {}, []

    def handle_starttag(self, tag, attrs):
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.fetched += [f"{tag} {name}={value}" for name, value in attrs if name in self.FETCHING]


def complaints(prefix):
    """What is wrong with each thing that is looked at; an empty text where nothing is."""
    with open(f"{prefix}.json", encoding="utf-8") as file:
        run = json.load(file)
    with open(f"{prefix}.md", encoding="utf-8") as file:
        markdown = file.read()
    with open(f"{prefix}.html", encoding="utf-8") as file:
        text = file.read()
    cases = {case["name"]: case for case in run["cases"]}
    rows = ROWS[run["bench"]]
    for row, peers in rows.items():
        case = cases.get(row)
        if case is None:
            yield f"{row}: no such row"
            continue
        sides = {side["side"] for side in case["rounds"]}
        for side, program in {OWN: None, **peers}.items():
            if any(shutil.which(word) is None for word in (program or "").split()):
                print(f"{row}: {side} is left out, {program} is not installed")
                if not any("is not installed" in note for note in run["notes"]):
                    yield f"{row}: nothing is said of {program}, which is not installed"
                continue
            about = case["about"].get(side, {})
            rates = [r["figures"].get("per_second", r["figures"].get("mb_per_second", 0)) for r in case["rounds"] if r["side"] == side]
            if side not in sides or not all(rate > 0 for rate in rates):
                yield f"{row}, {side}: not measured"
            elif not all(about.get(name) for name in ("version", "command", "durability")):
                yield f"{row}, {side}: says not what it is: {about}"
            elif f"## {row}\n" not in markdown:
                yield f"{row}: not in the markdown"
            else:
                yield ""
    page = Page()
    page.feed(text)
    yield f"the page asks for {page.fetched}" if page.fetched or "@import" in text or "url(" in text else ""
    charts = page.elements.get("svg", 0)
    # Rows of requests have one of latencies, too.
    least = len(rows) + (1 if run["bench"] == "peers" else 0)
    yield "" if charts >= least else f"the page has {charts} charts"


def main():
    found = [text for prefix in sys.argv[1:] for text in complaints(prefix)]
    bad = [text for text in found if text]
    for text in bad:
        print(text)
    print(f"{len(found) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
