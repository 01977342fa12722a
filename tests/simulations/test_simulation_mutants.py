"""The simulator finds what is wrong: every planted defect is caught by a shipped scenario, and its plan becomes small."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.timeout(900),  # two processes for all mutants, on machines that others use, too
    pytest.mark.xdist_group("mutants"),  # one worker: each would run them all
]
FOLDER = Path(__file__).parent / "mutants"
MUTANTS = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
SHRUNK = ("window-moved-before-authentication", "staging-unbounded", "handshake-timer-never-armed")


def run_mutant(name: str) -> dict[str, Any]:
    words = ["shrink"] if name in SHRUNK else []
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run_mutant.py"), str(MUTANTS[name]), *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MUTANTS, pool.map(run_mutant, MUTANTS), strict=True))


def test_every_mutant_is_caught_by_its_scenario_within_200_seeds(found: dict[str, dict[str, Any]]) -> None:
    print()
    for name, path in MUTANTS.items():
        mutant = tomllib.loads(path.read_text())
        print(f"{name:38} {mutant['scenario']:20} {found[name]['property']!s:32} seed {found[name]['seed']}")
    for name, path in MUTANTS.items():
        assert found[name]["property"] == tomllib.loads(path.read_text())["property"], (name, found[name])
    assert len(MUTANTS) >= 10


@pytest.mark.parametrize("name", SHRUNK)
def test_the_plan_of_a_mutant_shrinks_to_two_faults_at_most(found: dict[str, dict[str, Any]], name: str) -> None:
    assert found[name]["faults"] > 2, "there was nothing to shrink"
    assert found[name]["property_shrunk"] == found[name]["property"]
    assert 1 <= len(found[name]["faults_shrunk"]) <= 2, found[name]
