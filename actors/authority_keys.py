"""The keys of a network's authority, and of the one that follows it while the two overlap. Files in a state directory.

    authority.key, authority.pem              the authority
    authority.next.key, authority.next.pem    the one that follows, from the beginning of a rollover to its end

Who issues is said by the bundle alone: the last authority in it. So a machine that stops in the middle of a rollover finds the one
or the other, and never none. Not responsible for what follows from a rollover (`authority_files`).
"""

from __future__ import annotations

from holloway.actors.state_directory import StateDirectory
from holloway.protocols.authorities import Bundle
from holloway.protocols.certificates import from_pem, network_of, to_pem
from holloway.protocols.errors import LocalError
from holloway.protocols.identity import Identity
from holloway.protocols.issuing import Authority

AUTHORITY_KEY = "authority.key"
AUTHORITY_CERTIFICATE = "authority.pem"
NEXT_KEY = "authority.next.key"
NEXT_CERTIFICATE = "authority.next.pem"
_PAIRS = ((AUTHORITY_KEY, AUTHORITY_CERTIFICATE), (NEXT_KEY, NEXT_CERTIFICATE))


def authorities_at_hand(state: StateDirectory, bundle: Bundle) -> list[Authority]:
    """The authorities of the bundle whose keys are here, in its order: the last one of a whole list issues.

    Raises LocalError when that one is not here, and `PortError` for files that cannot be used.
    """
    found: dict[bytes, Authority] = {}
    problem = LocalError(
        f"{state.path} holds no authority",
        f"{AUTHORITY_KEY} does not exist",
        "run it on the machine that made the network, or name its folder: --state DIR",
    )
    for key, certificate in _PAIRS:
        pem, issued = state.read(key), state.read(certificate)
        if pem is None or issued is None:
            continue
        try:
            identity = Identity.from_pem(pem.decode("ascii", "replace"))
            authority = Authority(identity, from_pem(issued.decode("ascii", "replace")), bundle.network)
        except LocalError as error:  # of a pair that was being replaced, or is damaged: the other one may do
            problem = error
            continue
        found[authority.identity.public.fingerprint] = authority
    fingerprints = [each.key.fingerprint for each in bundle.authorities]
    if fingerprints[-1] not in found:
        if found:
            raise LocalError(
                f"the authority in {state.path} does not issue any more",
                "another one has followed it",
                f"bring back the newest {AUTHORITY_KEY} and {AUTHORITY_CERTIFICATE} from a copy",
            )
        raise problem
    return [found[each] for each in fingerprints if each in found]


def network_in(state: StateDirectory) -> str:
    """The network whose authority lies there. Raises LocalError when none does."""
    issued = state.read(AUTHORITY_CERTIFICATE)
    if issued is None:
        raise LocalError(
            f"{state.path} holds no authority",
            f"{AUTHORITY_CERTIFICATE} does not exist",
            "run it where the authority's key is, or name its folder: --state DIR",
        )
    return network_of(from_pem(issued.decode("ascii", "replace")))


def keep_authority(state: StateDirectory, authority: Authority) -> None:
    """Write down the authority of a new network; its key last: with it, the network exists."""
    state.write(AUTHORITY_CERTIFICATE, to_pem(authority.certificate.der))
    state.write(AUTHORITY_KEY, authority.identity.pem())


def keep_next(state: StateDirectory, authority: Authority) -> None:
    """Write down the one that is to follow, before the bundle names it."""
    state.write(NEXT_KEY, authority.identity.pem())
    state.write(NEXT_CERTIFICATE, to_pem(authority.certificate.der))


def drop_former(state: StateDirectory, authority: Authority) -> None:
    """Put the one that has followed in the place of the other, once the bundle names it alone. The other's key is gone then."""
    keep_authority(state, authority)
    state.remove(NEXT_CERTIFICATE)
    state.remove(NEXT_KEY)
