"""The settings of OpenSSL for DTLS: version, ciphers, certificates, and who asks whether those of others are good.

pyOpenSSL (from 26 on) lets nobody alter a context after its first connection, and Trio alters it for every connection: `DtlsContext`
has what Trio wants from the beginning and takes no more.

Not responsible for the judgement (`dtls_credentials`), nor for connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, crypto

if TYPE_CHECKING:
    from holloway.actors.dtls_credentials import Shown

DTLS_1_2 = 0xFEFD
CIPHERS = b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN: an authority that everybody has need not be sent
NO_TICKET = 0x4000  # SSL_OP_NO_TICKET, include/openssl/ssl.h: a session that is resumed shows no certificate
WRITE_ALERT, READ_ALERT = 0x4008, 0x4004  # SSL_CB_*, include/openssl/ssl.h

Verify = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]
Info = Callable[[SSL.Connection, int, int], None]


class DtlsContext(SSL.Context):
    """A context that may be given to `trio.DTLSEndpoint` again and again."""

    _WANTED = SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION
    _is_complete = False

    def __init__(self) -> None:
        super().__init__(SSL.DTLS_METHOD)
        self.set_min_proto_version(DTLS_1_2)
        super().set_options(self._WANTED | NO_TICKET)
        super().set_cookie_verify_callback(lambda *_: True)  # Trio has looked at the cookie
        self._is_complete = True

    def set_options(self, options: int) -> int:
        """What Trio sets is set already."""
        if self._is_complete and not options & ~self._WANTED:
            return 0
        return super().set_options(options)

    def set_cookie_verify_callback(self, callback: Any) -> None:
        """Ours stays."""
        assert self._is_complete


def dtls_context(shown: Shown, verify: Verify, info: Info) -> DtlsContext:
    """A context for connections of either direction: DTLS 1.2, ECDHE and AES-GCM, certificates of both sides.

    `verify` is asked for every certificate of the other side (`SSL.Context.set_verify`), `info` is told of alerts. Both find out by
    the connection's `get_app_data` what it is about. Raises `SSL.Error` for a key and a certificate that do not belong together.
    """
    context = DtlsContext()
    context.set_cipher_list(CIPHERS)
    context.use_privatekey(shown.key)
    context.use_certificate(shown.certificate)
    for certificate in shown.chain:
        context.add_extra_chain_cert(certificate)
    context.check_privatekey()
    context.set_mode(NO_AUTO_CHAIN)
    store = context.get_cert_store()
    assert store is not None
    for certificate in shown.authorities:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_info_callback(info)
    return context
