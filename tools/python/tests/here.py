"""Where the tests stand: makes the package importable from any folder. Imported first by each test."""

import os
import sys

TOOLS_PYTHON = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REPOSITORY = os.path.dirname(os.path.dirname(TOOLS_PYTHON))
if TOOLS_PYTHON not in sys.path:
    sys.path.insert(0, TOOLS_PYTHON)
