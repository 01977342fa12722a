"""What this node offers the others and is willing to with each of them, by its configuration.

Not responsible for the decisions (`holloway.protocols.offers`) nor for the handshake, in which the peer has its say. The library that
compresses is loaded only where the configuration asks for it.
"""

from __future__ import annotations

import logging
from types import ModuleType

from holloway.actors.config import Config, ConfigProblems
from holloway.actors.config.problems import Problem
from holloway.actors.wanted import Peer
from holloway.protocols.compression import Codec
from holloway.protocols.network_settings import Backend
from holloway.protocols.offers import LZ4, NOT_COMPRESSED, SEALED, WORDS, Policy, Security, Terms, willing
from holloway.protocols.suites import SUITES

log = logging.getLogger("holloway.node")

PLAIN_WORDS = "NOT ENCRYPTED"


def policy_of(config: Config) -> Policy:
    """What the configuration requires, and what it lets this node offer with its back end."""
    is_dtls = config.node.backend is not None and Backend(config.node.backend).is_dtls
    supported = (Security.DTLS,) if is_dtls else (Security.SESSION, Security.NONE)
    return Policy(WORDS[config.security.require], supported, config.session.compression)


def refuse_contradictions(config: Config) -> None:
    """Raises `ConfigProblems` when the back end that the network has cannot do what the configuration asks for."""
    backend = config.node.backend
    if not policy_of(config).allowed:
        what = f"this node speaks {backend}, so it would have no peers"
        raise _problem(config, "security.require", what, f'write "{backend}"')
    if Backend(backend).is_dtls and config.session.compression != NOT_COMPRESSED:
        raise _problem(config, "session.compression", "over dtls nothing is compressed", "leave it out")


def terms_with(policy: Policy, peer: Peer) -> Terms:
    """What we are willing to with that peer; nothing with one of a suite that has no terms."""
    return willing(policy, peer.offers) if SUITES[peer.suite].terms_bytes else SEALED


def codec_of(config: Config) -> Codec | None:
    """What compresses, if the configuration asks for it. Raises `ConfigProblems` where the library is missing."""
    if config.session.compression != LZ4:
        return None
    try:
        from lz4 import block
    except ImportError as error:
        what = "lz4 needs a library that is not installed here"
        fix = "pip install 'holloway[compression]', or leave compression out"
        raise _problem(config, "session.compression", what, fix) from error
    return Lz4(block)


def _problem(config: Config, key: str, what: str, fix: str) -> ConfigProblems:
    return ConfigProblems([Problem(config.path, None, key, what, fix)], config.path)


class Lz4:
    """See `holloway.protocols.compression.Codec`."""

    def __init__(self, block: ModuleType) -> None:
        """`block`: the module `lz4.block`."""
        self._compress, self._decompress, self._error = block.compress, block.decompress, block.LZ4BlockError

    def compress(self, data: bytes) -> bytes:
        block: bytes = self._compress(data, store_size=False)
        return block

    def decompress(self, data: memoryview, length: int) -> bytes | None:
        try:
            plain: bytes = self._decompress(data, uncompressed_size=length)
        except self._error:
            return None
        return plain if len(plain) == length else None


def warn_of_policy(policy: Policy) -> None:
    """Say it at the start when plain text is asked for."""
    if Terms.CLEAR in willing(policy, None):
        log.warning(
            '[security] require = "none": with peers that ask for the same, data is %s and can be read on the way',
            PLAIN_WORDS,
        )
