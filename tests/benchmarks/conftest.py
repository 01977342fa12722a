"""The benchmark is a program, not a package: its modules are imported from its folder, as `./run bench` does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
