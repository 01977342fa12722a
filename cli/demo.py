"""`holloway demo`: two real nodes on this machine and an encrypted ping between them.

It takes the best of three tiers that this machine allows, and says which and why: network namespaces as root; the same
inside a user namespace, without root; or both nodes in this process on a simulated network. Not responsible for the
namespaces themselves: that is `demo_world`, in a process of its own, because a namespace belongs to a thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from holloway.protocols.errors import HollowayError

TIERS = ("root", "userns", "in-process")
SCHEMA = "holloway.demo/1"
WORLD_TIMEOUT_S = 60.0
TIER_REFUSED = 75
"""Exit code of the world when its tier cannot be had here; the reason is on its standard output."""

_IN_WORDS = {
    "root": "two network namespaces, as root",
    "userns": "two network namespaces inside a user namespace, without root",
    "in-process": "both nodes in one process, on a simulated network",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (holloway.demo/1).")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many pings.")
@click.option(
    "--suite", type=click.Choice(("aes-gcm", "wireguard")), default="aes-gcm", show_default=True, help="Cipher suite."
)
@click.option(
    "--tier", type=click.Choice(("auto", *TIERS)), default="auto", show_default=True, help="Where the nodes live."
)
def command(*, as_json: bool, count: int, suite: str, tier: str) -> None:
    """Bring up two nodes on this machine and ping through the tunnel.

    Exit code 0 only if every ping was answered and a capture of the wire shows nothing of what was inside.
    """
    began = time.monotonic()
    refused: list[str] = []
    for candidate in TIERS if tier == "auto" else (tier,):
        if candidate == "root" and os.geteuid() != 0:
            refused.append("root: this user is not root")
            continue
        result = _in_process(count, suite) if candidate == "in-process" else _in_world(candidate, count, suite)
        if isinstance(result, str):
            refused.append(f"{candidate}: {result}")
            continue
        break
    else:
        raise HollowayError("the demo cannot run", "; ".join(refused), "try: holloway demo --tier in-process")
    result = {"schema": SCHEMA, "tier": candidate} | result | {"seconds": round(time.monotonic() - began, 3)}
    if as_json:
        click.echo(json.dumps(result))
    asked = "it was asked for" if tier != "auto" else "; ".join(f"not {reason}" for reason in refused) or "we are root"
    _say(f"tier: {candidate}, because {asked}")
    if not as_json:
        _tell(result)
    is_good = result["ping"]["received"] == result["ping"]["sent"] and result["encrypted"]
    sys.exit(0 if is_good else 1)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _tell(result: dict[str, Any]) -> None:
    first, second = result["nodes"]
    ping, rtt = result["ping"], result["ping"]["rtt_ms"]
    click.echo(f"{first['name']} {first['address']}  <== {first['suite']} ==>  {second['name']} {second['address']}")
    times = f", round trip {rtt['min']:.2f} / {rtt['avg']:.2f} / {rtt['max']:.2f} ms" if rtt else ""
    click.echo(f"{ping['received']} of {ping['sent']} pings answered{times}")
    wire = "no inner byte on the wire" if result["encrypted"] else "INNER BYTES ON THE WIRE, or nothing was captured"
    click.echo(f"capture of the underlay: {wire}")
    click.echo(f"{result['seconds']:.1f} s")


def _in_world(tier: str, count: int, suite: str) -> dict[str, Any] | str:
    """Run the two nodes in namespaces; the result, or why this tier cannot be had here."""
    _say(f"starting two nodes ({_IN_WORDS[tier]}) ...")
    with tempfile.TemporaryDirectory(prefix="holloway-demo-") as folder:
        argv = [sys.executable, "-P", "-m", "holloway.cli.demo_world", tier, str(count), suite, folder]
        try:
            world = subprocess.run(argv, stdout=subprocess.PIPE, timeout=WORLD_TIMEOUT_S, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise HollowayError("the demo did not end in time", f"{WORLD_TIMEOUT_S:.0f} s have passed") from None
        if world.returncode == TIER_REFUSED:
            return world.stdout.decode(errors="replace").strip()
        if world.returncode != 0:
            logs = [path.read_text(errors="replace").strip() for path in sorted(Path(folder).glob("*.log"))]
            raise HollowayError("the demo failed", "\n".join(filter(None, logs)) or "its world ended early")
    result: dict[str, Any] = json.loads(world.stdout)
    return result


def _in_process(count: int, suite: str) -> dict[str, Any]:
    _say(f"starting two nodes ({_IN_WORDS['in-process']}) ...")
    import trio

    from holloway.cli.demo_inside import demonstrate

    return trio.run(demonstrate, count, suite)
