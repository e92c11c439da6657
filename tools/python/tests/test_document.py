"""The numbers of codes.py are those of the document, name by name."""

from __future__ import annotations

import os
import re
import unittest

from here import REPOSITORY  # first: it makes the package importable
from thermocline import codes, replies, requests, writes
from thermocline.codes import Limit, Operation, Outcome, Why

with open(os.path.join(REPOSITORY, "net", "PROTOCOL.md"), encoding="utf-8") as file:
    DOCUMENT = file.read()


def rows(heading: str):
    """The cells of the table below this heading."""
    section = DOCUMENT.split(f"### {heading}\n", 1)[1]
    table = re.search(r"^\|.*?(?=\n\n)", section, re.DOTALL | re.MULTILINE)
    lines = table.group(0).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


class Codes(unittest.TestCase):
    def test_names_and_numbers(self):
        tables = (("operations", Operation), ("outcomes", Outcome), ("limits", Limit), ("bad requests", Why))
        for heading, names in tables:
            with self.subTest(heading):
                document = {cells[1]: int(cells[0]) for cells in rows(f"Codes: {heading}")}
                self.assertEqual(document, {name.name: name.value for name in names})

    def test_which_operations_write(self):
        writing = {cells[1] for cells in rows("Codes: operations") if cells[4] == "yes"}
        self.assertEqual(writing, {operation.name for operation in codes.WRITES})

    def test_sizes_of_tables(self):
        sizes = dict(re.findall(r"### Table: (.*?) \((\d+) bytes\)", DOCUMENT))
        ours = {
            "Get": requests._GET,
            "Put": writes._PUT,
            "batch operation": writes._BATCH_OPERATION,
            "reply head": replies.HEAD,
            "record": replies.RECORD,
        }
        for name, layout in ours.items():
            self.assertEqual(int(sizes[name]), layout.size, name)


if __name__ == "__main__":
    unittest.main()
