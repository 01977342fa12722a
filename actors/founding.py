"""How a network begins, and how its first node gets its certificate: as every other does, by an invitation.

Needs no registry: what has to be published is, by the first node, as soon as it runs. Not responsible for files (`enrolled`,
`authority_files`), nor for the configuration.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from holloway.actors.authority_files import AuthorityFiles, Entropy
from holloway.actors.enrolled import CERTIFICATE, REVOKED, identity_in
from holloway.actors.joining import explained
from holloway.actors.state_directory import StateDirectory
from holloway.protocols.enrolment import NONCE_BYTES, EnrolProblem, Refused
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import ENTROPY_BYTES
from holloway.protocols.joiner import Granted, Joiner
from holloway.protocols.membership import Prefix
from holloway.protocols.network_settings import NetworkSettings
from holloway.protocols.trust import revoked_key

OWN_INVITATION_S = 60


def found_network(
    state: StateDirectory,
    network: str,
    settings: NetworkSettings,
    *,
    name: str,
    address: IPv4Address | None,
    prefixes: tuple[Prefix, ...] = (),
    registry: str,
    entropy: Entropy,
    now: int,
) -> Granted:
    """Make an authority for `network`, and a certificate for node `name` of this machine, with `prefixes`. `now`: seconds
    since 1970.

    What is granted is to be kept (`keep_granted`), last of all. Where that was interrupted before, it goes on. Raises LocalError when there is a node or an authority of another network, or a
    name or an address cannot be had; `HollowayError` as `explained` does.
    """
    if state.has(CERTIFICATE):
        raise LocalError(f"{state.path} holds a node already", "it is in a network", "name another folder: --state DIR")
    if AuthorityFiles.exist(state):
        authority = AuthorityFiles(state, network, entropy)
    else:
        authority = AuthorityFiles.create(state, network, settings, entropy, now)
    state.write(REVOKED, authority.statements(now)[revoked_key(network)])
    invitation = authority.invite(
        expires=now + OWN_INVITATION_S, registry=registry, files={}, name=name, prefixes=prefixes
    )
    identity = identity_in(state, entropy(ENTROPY_BYTES))
    joiner = Joiner(invitation, identity, entropy(NONCE_BYTES), addresses=() if address is None else (address,))
    decision = authority.enrol(invitation.terms.id, joiner.request(), now).decision
    answer = EnrolProblem.NOT_AUTHENTIC if decision.answer is None else joiner.read(decision.answer, now)
    if not isinstance(answer, Granted):
        raise explained(answer.reason if isinstance(answer, Refused) else answer)
    return answer
