"""Masquerading for those whose default route ends here: one table of nftables, named after the device.

Packets that came out of the tunnel leave this host under its own address. Whatever else is in that table,
from a node that was killed, is replaced. Whether the host forwards at all is the administrator's to say: other programs depend
on it as well, and IPv6 forwarding makes a host deaf to the router that gave it its address.

Not responsible for routes (`gateway`), nor for a firewall that forbids forwarding.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection

import trio

from holloway.actors.netlink_gateway import forwards
from holloway.protocols.errors import PortError

NFT_TIMEOUT_S = 10.0
_SWITCH = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
_WORD = {4: "IPv4", 6: "IPv6"}
_NO_EFFECT = "masquerading cannot be set up"


def table_name(interface: str) -> str:
    """The table of a device."""
    return "holloway_" + re.sub(r"[^A-Za-z0-9_.-]", "_", interface)


async def set_masquerade(interface: str, versions: Collection[int]) -> None:
    """Masquerade what comes out of `interface`, in these IP versions; with none, what was set up goes.

    Raises `PortError` when the host does not forward, or nftables refuses.
    """
    off = [version for version in sorted(versions) if not forwards(version)]
    if off:
        switches = " ".join(f"{_SWITCH[version]}=1" for version in off)
        raise PortError(
            _NO_EFFECT,
            f"this host does not forward {' and '.join(_WORD[version] for version in off)} packets",
            f"sudo sysctl -w {switches}   (and for good: a file in /etc/sysctl.d)"
            + (
                "; an uplink that is configured by router advertisements needs its accept_ra=2 as well"
                if 6 in off
                else ""
            ),
        )
    name = table_name(interface)
    if not versions:
        if shutil.which("nft") is not None:  # otherwise there is nothing of ours
            refusal = await _nft(f"table inet {name} {{ }}\ndelete table inet {name}\n")
            if refusal is not None:
                fix = f"if `sudo nft list tables` shows it: sudo nft delete table inet {name}"
                raise PortError("masquerading cannot be taken back", f"nft: {refusal}", fix)
        return
    if shutil.which("nft") is None:
        raise PortError(_NO_EFFECT, "there is no program nft", "sudo apt-get install nftables")
    families = [{4: "ipv4", 6: "ipv6"}[version] for version in sorted(versions)]
    matched = families[0] if len(families) == 1 else f"{{ {', '.join(families)} }}"
    rule = f'iifname "{interface}" oifname != "{interface}" meta nfproto {matched} masquerade'
    if await _has(name, rule):
        return
    refusal = await _nft(
        f"table inet {name} {{ }}\ndelete table inet {name}\n"
        f"table inet {name} {{\n"
        "  chain leaving {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"    {rule}\n"
        "  }\n}\n"
    )
    if refusal is not None:
        raise PortError(
            _NO_EFFECT, f"nft: {refusal}", "run as root; the kernel needs nf_tables and nft_masq: modprobe nft_masq"
        )


async def _has(name: str, rule: str) -> bool:
    """Whether the table is there, with this rule, as nft itself would write it."""
    with trio.move_on_after(NFT_TIMEOUT_S):
        command = ["nft", "list", "table", "inet", name]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        return rule in done.stdout.decode("utf-8", "replace")
    return False


async def _nft(script: str) -> str | None:
    """Feed a script to nft, which does all of it or nothing. The first line of its complaint, or None."""
    with trio.move_on_after(NFT_TIMEOUT_S):
        done = await trio.run_process(
            ["nft", "-f", "-"], stdin=script.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
        if not done.returncode:
            return None
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return said[0] if said else f"it ended with {done.returncode}"
    return f"no answer within {NFT_TIMEOUT_S:g} s"
