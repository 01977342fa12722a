"""The demo on a real kernel, in each tier, as root and as a user who is nobody."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from daemons import HOLLOWAY
from namespaces import needs_namespaces

from holloway.cli.demo_report import INNER, is_encrypted
from holloway.cli.main import run

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "holloway.demo.json").read_text())
MARKER = bytes(range(16))


def demo(*options: str, **settings: Any) -> tuple[Any, str]:
    """The result of `holloway demo --json`, and what it said beside it."""
    done = subprocess.run(
        [*HOLLOWAY, "demo", "--json", *options], capture_output=True, text=True, check=False, **settings
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result, done.stderr


@needs_namespaces
@pytest.mark.parametrize("tier", ["root", "userns"])
@pytest.mark.parametrize("suite", ["aes-gcm", "wireguard"])
def test_every_ping_is_answered_between_namespaces(tier: str, suite: str) -> None:
    result, said = demo("--tier", tier, "--suite", suite, "--count", "3")
    assert (result["tier"], result["ping"]["received"], result["encrypted"]) == (tier, 3, True)
    assert [node["suite"] for node in result["nodes"]] == [suite, suite]
    assert f"tier: {tier}, because it was asked for" in said
    assert result["seconds"] < 30


@pytest.mark.parametrize("suite", ["aes-gcm", "wireguard"])
def test_it_needs_nothing_of_the_machine_inside_one_process(suite: str) -> None:
    result, _ = demo("--tier", "in-process", "--suite", suite, "--count", "3")
    assert (result["tier"], result["ping"]["received"], result["encrypted"]) == ("in-process", 3, True)


@needs_namespaces
def test_without_a_tun_device_it_says_why_and_falls_back() -> None:
    """A mount namespace of its own hides the device from this demo and from nobody else."""
    hide = 'mount --bind /dev/null /dev/net/tun && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", hide, "sh", *HOLLOWAY, "demo", "--json", "--count", "2"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tier"] == "in-process"
    assert "tier: in-process, because not root: /dev/net/tun cannot be used" in done.stderr


def test_a_tier_that_cannot_be_had_is_an_error_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(["demo", "--tier", "root"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the demo cannot run",
        "why:   root: this user is not root",
        "fix:   try: holloway demo --tier in-process",
    ]


@pytest.mark.parametrize(
    ("wire", "verdict"),
    [
        ([b"x" * 60] * 6, True),
        ([b"x" * 60] * 5, False),  # too few datagrams to have carried three pings both ways
        ([], False),
        ([b"x" * 60] * 6 + [b"clear " + MARKER], False),
        ([b"x" * 60] * 6 + [bytes(map(int, ".".join(INNER).split(".")))], False),
    ],
)
def test_the_wire_is_called_encrypted_only_when_it_was_seen_and_clean(wire: list[bytes], verdict: bool) -> None:
    assert is_encrypted(wire, 3, MARKER) is verdict
