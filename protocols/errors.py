"""The exception tree of Holloway.

    HollowayError
    ├─ ConfigError        one or more problems in a configuration
    ├─ ProtocolError
    │  ├─ LocalError      the caller misused a protocol object; its state is unchanged
    │  ├─ HandshakeFailed a handshake message did not authenticate or did not fit
    │  └─ KeyExhausted    a key has used its last counter and refuses to wrap
    └─ PortError          the outside world said no
       ├─ TunError
       ├─ RegistryError
       └─ BrokerError      the broker of the control plane cannot be reached, or refuses

Nothing here is raised because of what a peer sent to a running node: hostile input becomes an event with a reason and a
counter. The supervisor room has a root of its own, `SupervisorError`, because it imports nothing of ours.
"""

from __future__ import annotations

from typing import Literal


class HollowayError(Exception):
    """Root of the errors that Holloway raises on purpose.

    `what` happened, `why`, and `fix`: the command or change that mends it. The command line prints the three lines.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


class ConfigError(HollowayError):
    """A configuration cannot be used."""


class ProtocolError(HollowayError):
    """Root of the errors of the pure protocol objects."""


class LocalError(ProtocolError):
    """The caller asked for something the object cannot do in its state. Nothing has changed."""


class HandshakeFailed(ProtocolError):
    """A handshake message was refused. Raised inside the protocol room only; it leaves as a drop reason."""


class KeyExhausted(ProtocolError):
    """A transport key reached its last counter. It refuses to encrypt: counters never wrap."""


class PortError(HollowayError):
    """The kernel, a file or a store refused."""


class TunError(PortError):
    """The TUN device could not be made or configured."""


class RegistryError(PortError):
    """A registry refused. `kind` says how: the store is away, it denied us, or the history asked for is gone."""

    def __init__(
        self,
        what: str,
        why: str = "",
        fix: str = "",
        *,
        kind: Literal["unavailable", "denied", "compacted"] = "unavailable",
    ) -> None:
        super().__init__(what, why, fix)
        self.kind = kind


class BrokerError(PortError):
    """The broker cannot be talked to. `kind` says how: nobody is there, it is not the one we know, or it does not know us."""

    def __init__(
        self,
        what: str,
        why: str = "",
        fix: str = "",
        *,
        kind: Literal["absent", "foreign", "denied"] = "absent",
    ) -> None:
        super().__init__(what, why, fix)
        self.kind = kind
