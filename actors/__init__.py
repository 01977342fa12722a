"""Everything of Holloway that touches the world: one actor a file, behind small ports. Start reading at `node`.

Names load when they are used: importing the room alone costs neither Trio nor cryptography.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holloway.actors.config import (
        Config,
        ControlConfig,
        DtlsConfig,
        Endpoint,
        FloatingConfig,
        GatewayConfig,
        IdentityConfig,
        InterfaceConfig,
        ListenConfig,
        NodeConfig,
        PeerConfig,
        RegistryConfig,
        SecurityConfig,
        SessionConfig,
        TimersConfig,
        load_config,
    )
    from holloway.actors.node import Node, open_node
    from holloway.actors.ports import DatagramPort, Netlink, Ports, TunPort
    from holloway.actors.registry import MemoryRegistry, RegistryPort, open_registry
    from holloway.protocols.arrivals import Arrival

__all__ = [
    "Arrival",
    "Config",
    "ControlConfig",
    "DatagramPort",
    "DtlsConfig",
    "Endpoint",
    "FloatingConfig",
    "GatewayConfig",
    "IdentityConfig",
    "InterfaceConfig",
    "ListenConfig",
    "MemoryRegistry",
    "Netlink",
    "Node",
    "NodeConfig",
    "PeerConfig",
    "Ports",
    "RegistryConfig",
    "RegistryPort",
    "SecurityConfig",
    "SessionConfig",
    "TimersConfig",
    "TunPort",
    "load_config",
    "open_node",
    "open_registry",
]

_HOMES = {
    "node": ("Node", "open_node"),
    "ports": ("Arrival", "DatagramPort", "Netlink", "Ports", "TunPort"),
    "registry": ("MemoryRegistry", "RegistryPort", "open_registry"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF.get(name, 'config')}"), name)
