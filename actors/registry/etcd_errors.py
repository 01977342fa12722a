"""What went wrong with etcd, in words: from a gRPC status to what, why and fix.

Responsible for knowing the texts of gRPC and etcd that say why. NOT responsible for trying again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from holloway.protocols.errors import RegistryError

Kind = Literal["unavailable", "denied", "compacted"]

DETAILS_MAX = 300  # characters of a text that we do not know; it comes from the other side
TOO_BIG_TO_RECEIVE = "Received message larger than max"
COMPACTED = "required revision has been compacted"
LEASE_NOT_FOUND = "requested lease not found"
STALE_TOKEN = ("invalid auth token", "revision of auth store is old")
PERMISSION = "permission denied"
NO_USERS = "authentication is not enabled"


class Refusal(RegistryError):
    """etcd, or the way to it, said no. `code` is gRPC's status by name, `details` its text."""

    def __init__(self, what: str, why: str, fix: str, *, kind: Kind, code: str, details: str) -> None:
        super().__init__(what, why, fix, kind=kind)
        self.code = code
        self.details = details

    def says(self, *texts: str) -> bool:
        """Tell whether the details hold one of the texts."""
        return any(text in self.details for text in texts)


@dataclass(frozen=True, slots=True)
class _Cause:
    """A text by which a cause is known. In `why`, `{}` stands for what the text's group 1 matched."""

    text: str
    why: str
    fix: str
    kind: Kind = "unavailable"


_LOOK = "see whether it runs and is healthy: etcdctl endpoint status"
_CAUSES = (
    # TLS, as gRPC's BoringSSL tells it.
    _Cause(
        r"CERTIFICATE_VERIFY_FAILED: ([\w ,'-]+)",
        "TLS failed: its certificate is not believed ({})",
        "name the authority that issued it: ca=FILE in the registry URL",
    ),
    _Cause(
        "Hostname Verification Check failed",
        "TLS failed: its certificate is for another name",
        "use a host or server_name=NAME in the registry URL that the certificate has: openssl x509 -ext subjectAltName",
    ),
    _Cause(
        r"TSI_DATA_CORRUPTED|ALERT_BAD_CERTIFICATE|CERTIFICATE_REQUIRED|ALERT_UNKNOWN_CA",
        "TLS failed: it wants a client certificate, and ours is missing, out of date, or of another authority",
        "give cert=FILE&key=FILE in the registry URL, from the authority in etcd's --trusted-ca-file",
    ),
    _Cause(
        "Handshake read failed|WRONG_VERSION_NUMBER",
        "TLS failed: it does not speak TLS on this port",
        "check the port, or leave TLS out of the registry URL",
    ),
    _Cause(
        "security handshaker|[Hh]andshake failed",
        "TLS failed: no agreement with it",
        "look at its log, and at the certificates: openssl s_client -connect HOST:PORT",
    ),
    # Connections.
    _Cause("Connection refused", "nobody listens there: connection refused", _LOOK),
    _Cause(
        "failed to connect to all addresses.*(?:Socket closed|Connection reset|recvmsg)",
        "it hung up before a word was said: perhaps it wants TLS",
        "add ca=FILE to the registry URL if etcd speaks TLS on this port",
    ),
    _Cause("connection attempt timed out|SETTINGS", "it takes connections, but does not answer", _LOOK),
    _Cause("ping timeout|keepalive|Keepalive", "it stopped answering", _LOOK),
    _Cause(
        "No route to host|unreachable",
        "there is no way to it: no route to host",
        "check the address: ip route get HOST",
    ),
    _Cause("Socket closed|Connection reset|GOAWAY|Broken pipe|recvmsg", "the connection broke", _LOOK),
    # What etcd itself says (api/v3rpc/rpctypes/error.go).
    _Cause(
        "invalid user ID or password",
        "the user or the password is wrong",
        "check user and password_file in the registry URL: etcdctl user passwd NAME",
        "denied",
    ),
    _Cause(
        "user name is empty",
        "it wants to know the user, and none was given",
        "add user=NAME&password_file=FILE to the registry URL, or a certificate whose common name is the user",
        "denied",
    ),
    _Cause(
        PERMISSION,
        "permission denied: the user may not use these keys, or is unknown",
        "etcdctl role grant-permission ROLE readwrite --prefix=true PREFIX; etcdctl user grant-role NAME ROLE",
        "denied",
    ),
    _Cause(
        NO_USERS,
        "it knows no users: authentication is not enabled",
        "leave user and password_file out of the registry URL, or switch it on: etcdctl auth enable",
        "denied",
    ),
    _Cause("|".join(STALE_TOKEN), "it does not know our login any more", "nothing: the next call logs in again"),
    _Cause("no leader|not leader|leader changed|not capable", "its cluster has no leader", _LOOK),
    _Cause("request timed out", "its cluster did not agree in time", _LOOK),
    _Cause(
        "database space exceeded|NOSPACE",
        "its store is full",
        "compact and defragment it, then: etcdctl alarm disarm; or raise --quota-backend-bytes",
    ),
    _Cause("too many requests", "it is overloaded", _LOOK),
    _Cause(
        "request is too large|too many operations",
        "it takes less at once than it usually does: {}",
        "start etcd with its usual --max-request-bytes and --max-txn-ops, or more",
        "denied",
    ),
    _Cause(
        TOO_BIG_TO_RECEIVE,
        "its answer is larger than is safe to take",
        "somebody put huge values there: etcdctl get --prefix --keys-only PREFIX",
    ),
    _Cause("duplicate key given", "a key appears twice", "change a key once", "denied"),
)


def refusal(code: str, details: str, where: str) -> Refusal:
    """Return the error of a call that ended with status `code`; `where` names the servers."""
    details = details[: 10 * DETAILS_MAX]
    what = f"The registry, {where}, cannot be used"
    for cause in _CAUSES:
        found = re.search(cause.text, details)
        if found:
            why = cause.why.format((found.group(1) if found.groups() else found.group()) or "")
            return Refusal(what, why.strip(), cause.fix, kind=cause.kind, code=code, details=details)
    if code == "DEADLINE_EXCEEDED":
        return Refusal(what, "no answer in time", _LOOK, kind="unavailable", code=code, details=details)
    why = f"{code.lower().replace('_', ' ')}: {details[:DETAILS_MAX] or 'no reason was given'}"
    return Refusal(what, why, _LOOK, kind="unavailable", code=code, details=details)
