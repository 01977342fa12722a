"""Which back end a node has: what its configuration and the settings of its network say together.

Not responsible for what follows from it (`node`, `peers`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holloway.actors.config import Config, ConfigProblems
from holloway.actors.config.model import DTLS_MTU
from holloway.actors.config.problems import Problem
from holloway.actors.config.schema import MAX_DTLS_MTU
from holloway.protocols.network_settings import Backend

if TYPE_CHECKING:
    from holloway.actors.enrolled import Enrolled
    from holloway.actors.store_member import StoreMember


def with_backend(config: Config, enrolled: Enrolled | None, member: StoreMember | None) -> Config:
    """The configuration with its back end named, and the MTU that goes with it.

    What an authority has signed is obeyed; what stands in a store that is believed counts where the configuration says nothing.
    Raises `ConfigProblems` when the configuration contradicts the authority, or there is no certificate.
    """
    source = enrolled or member
    settled = None if source is None else source.settings.backend.value
    wanted = config.node.backend
    if wanted is not None and wanted != settled and enrolled is not None:
        what = f"the nodes of network {config.node.network} speak {settled}"
        raise _problem(config, "node.backend", what, "leave backend out: the network's settings say it")
    backend = wanted or settled or Backend.SESSION.value
    node = replace(config.node, backend=backend)
    if backend == Backend.SESSION.value:
        for position, peer in enumerate(config.peers):
            if peer.plain_dtls:
                key, fix = f"peer[{position}].plain_dtls", "take the peer out, or use a network whose nodes speak dtls"
                raise _problem(config, key, "the nodes of this network speak session", fix)
        return replace(config, node=node)
    if config.dtls is None and enrolled is None:
        raise _problem(config, "node.backend", "dtls needs a certificate", "join a network, or name one under [dtls]")
    if config.interface.device_mtu > MAX_DTLS_MTU:
        what = f"a record of DTLS holds {MAX_DTLS_MTU} bytes at most"
        raise _problem(config, "interface.mtu", what, "leave mtu out, or use no more")
    interface = config.interface if config.interface.mtu else replace(config.interface, mtu=DTLS_MTU)
    return replace(config, node=node, interface=interface)


def _problem(config: Config, key: str, what: str, fix: str) -> ConfigProblems:
    return ConfigProblems([Problem(config.path, None, key, what, fix)], config.path)
