"""The configuration of a node: its values, its files, and everything that can be wrong with it.

A program that embeds a node builds a `Config` and may `verify_config` it; the daemon and the command line `load_config` a
file. Imports neither trio nor cryptography, and each name only when it is used: `holloway status` needs very few. Not
responsible for reading key files: see `holloway.actors.secrets`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holloway.actors.config.embedding import verify_config
    from holloway.actors.config.loading import Examined, examine_config, load_config
    from holloway.actors.config.model import (
        Config,
        ControlConfig,
        DtlsConfig,
        Endpoint,
        FloatingConfig,
        GatewayConfig,
        IdentityConfig,
        InterfaceConfig,
        LimitsConfig,
        ListenConfig,
        NodeConfig,
        PeerConfig,
        RegistryConfig,
        SecurityConfig,
        SessionConfig,
        TimersConfig,
    )
    from holloway.actors.config.problems import ConfigProblems, Problem
    from holloway.actors.config.sources import Setting, Source

__all__ = [
    "Config",
    "ConfigProblems",
    "ControlConfig",
    "DtlsConfig",
    "Endpoint",
    "Examined",
    "FloatingConfig",
    "GatewayConfig",
    "IdentityConfig",
    "InterfaceConfig",
    "LimitsConfig",
    "ListenConfig",
    "NodeConfig",
    "PeerConfig",
    "Problem",
    "RegistryConfig",
    "SecurityConfig",
    "SessionConfig",
    "Setting",
    "Source",
    "TimersConfig",
    "examine_config",
    "load_config",
    "verify_config",
]

_MODULES = {
    "ConfigProblems": "problems",
    "Examined": "loading",
    "Problem": "problems",
    "Setting": "sources",
    "Source": "sources",
    "examine_config": "loading",
    "load_config": "loading",
    "verify_config": "embedding",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'model')}"), name)
    globals()[name] = value
    return value
