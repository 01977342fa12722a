"""Between the plain table of values that the rules judge and the dataclasses that a node takes, both ways.

Not responsible for judging: `config_from_values` wants values without problems.
"""

from __future__ import annotations

from pathlib import Path

from holloway.actors.config.fields import Section
from holloway.actors.config.model import (
    Config,
    ControlConfig,
    DtlsConfig,
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
from holloway.actors.config.rules import Values
from holloway.actors.config.schema import SECTIONS, TIMER_KEYS


def config_from_values(values: Values, path: Path | None) -> Config:
    """The configuration that a complete table of typed values stands for."""
    session = dict(values["session"])
    timers = TimersConfig(**{key: session.pop(key) for key in TIMER_KEYS})
    return Config(
        node=NodeConfig(**values["node"]),
        interface=InterfaceConfig(**values["interface"]),
        listen=ListenConfig(**values["listen"]),
        session=SessionConfig(**session, timers=timers),
        peers=tuple(PeerConfig(**peer) for peer in values["peer"]),
        registry=RegistryConfig(**values["registry"]) if values["registry"] else None,
        identity=IdentityConfig(**values["identity"]) if values["identity"] else None,
        dtls=DtlsConfig(**values["dtls"]) if values["dtls"] else None,
        floating=tuple(FloatingConfig(**each) for each in values["floating"]),
        gateway=GatewayConfig(**values["gateway"]),
        control=ControlConfig(**values["control"]) if values["control"] else None,
        limits=LimitsConfig(**values["limits"]),
        security=SecurityConfig(**values["security"]),
        path=path,
    )


def values_from_config(config: Config) -> Values:
    """The table of a configuration that a program may have built; parts that are None are empty."""
    parts: dict[str, object] = {
        "node": config.node,
        "interface": config.interface,
        "listen": config.listen,
        "session": config.session,
        "gateway": config.gateway,
        "control": config.control,
        "limits": config.limits,
        "security": config.security,
        "registry": config.registry,
        "identity": config.identity,
        "dtls": config.dtls,
    }
    several = {"peer": config.peers, "floating": config.floating}
    values: Values = {}
    for each in SECTIONS:
        if each.repeated:
            values[each.name] = [_part(each, part) for part in several[each.name]]
        else:
            part = parts[each.name]
            values[each.name] = {} if part is None else _part(each, part)
    return values


def _part(each: Section, part: object) -> Values:
    return {
        field.key: getattr(
            part.timers if field.key in TIMER_KEYS and isinstance(part, SessionConfig) else part, field.key
        )
        for field in each.fields
    }
