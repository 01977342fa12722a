"""The table of everything that `./run bench` can measure, in the order in which it is shown."""

from __future__ import annotations

from pathlib import Path

import overlay_holloway
import overlay_nebula
import overlay_openvpn
import overlay_tinc
import overlay_wireguard_go
from namespaces import Namespace
from overlays import Overlay, System


def bare_wire(left: Namespace, right: Namespace, folder: Path) -> Overlay:
    """Nothing between the hosts but the veth pair: the ceiling."""
    return Overlay(right.ipv4)


SYSTEMS = {
    system.name: system
    for system in (
        System("raw", bare_wire, "the bare veth pair, nothing encrypted"),
        *overlay_holloway.SYSTEMS,
        *overlay_wireguard_go.SYSTEMS,
        *overlay_nebula.SYSTEMS,
        *overlay_tinc.SYSTEMS,
        *overlay_openvpn.SYSTEMS,
    )
}
