"""Why etcd, or the way to it, said no: the texts of gRPC and etcd, and what is made of them."""

from __future__ import annotations

import pytest

from holloway.actors.registry.etcd_errors import DETAILS_MAX, refusal

CONNECTING = "failed to connect to all addresses; last error: UNKNOWN: ipv4:192.0.2.1:2379: "


@pytest.mark.parametrize(
    ("code", "details", "kind", "why"),
    [
        (
            "UNAVAILABLE",
            f"{CONNECTING}Tls handshake failed (TSI_PROTOCOL_FAILURE): CERTIFICATE_VERIFY_FAILED: certificate has expired",
            "unavailable",
            "TLS failed: its certificate is not believed (certificate has expired)",
        ),
        (
            "UNAVAILABLE",
            f"{CONNECTING}Failed to create security handshaker.",
            "unavailable",
            "TLS failed: no agreement",
        ),
        ("UNAVAILABLE", f"{CONNECTING}Failed to connect to remote host: Connection refused", "unavailable", "refused"),
        ("UNAVAILABLE", f"{CONNECTING}No route to host", "unavailable", "no route to host"),
        (
            "UNAVAILABLE",
            f"{CONNECTING}connection attempt timed out before receiving SETTINGS frame",
            "unavailable",
            "does not answer",
        ),
        ("UNAVAILABLE", "ping timeout", "unavailable", "it stopped answering"),
        ("UNAVAILABLE", "Socket closed", "unavailable", "the connection broke"),
        ("UNAVAILABLE", "etcdserver: no leader", "unavailable", "no leader"),
        ("UNAVAILABLE", "etcdserver: leader changed", "unavailable", "no leader"),
        (
            "UNAVAILABLE",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "unavailable",
            "agree",
        ),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", "unavailable", "its store is full"),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", "unavailable", "overloaded"),
        (
            "INVALID_ARGUMENT",
            "etcdserver: request is too large",
            "denied",
            "less at once than it usually does: request",
        ),
        ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", "denied", "too many operations"),
        ("PERMISSION_DENIED", "etcdserver: permission denied", "denied", "permission denied"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "unavailable", "no answer in time"),
        ("INTERNAL", "", "unavailable", "internal: no reason was given"),
        ("UNKNOWN", "{0.__class__} " + "x" * 10_000, "unavailable", "unknown: {0.__class__} xx"),
    ],
)
def test_cause_is_named(code: str, details: str, kind: str, why: str) -> None:
    error = refusal(code, details, "etcd at h:2379")
    assert error.what == "The registry, etcd at h:2379, cannot be used"
    assert (error.kind, error.code) == (kind, code)
    assert why in error.why
    assert error.fix
    assert len(error.why) < DETAILS_MAX + 50
