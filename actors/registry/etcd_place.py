"""Finding etcd's servers, and whom to believe there: from an address to what gRPC can connect to.

Responsible for host names (gRPC takes several servers as IP addresses only, so a name is looked up anew for each
handle), and for `skip_verify`. NOT responsible for the connection itself.

`skip_verify` does not switch TLS off. The certificates that the servers show while the handle is opened are the only
ones it believes from then on. So nobody can listen in, and nobody can take the place of a server later; but whoever
stands between us and the servers at that very moment is believed, and reads and changes everything, our password
included. A certificate that is out of date is still refused.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import ssl

import trio

from holloway.actors.registry.etcd_client import EtcdTiming, Place
from holloway.actors.registry.etcd_files import Material, context_of
from holloway.actors.registry.etcd_url import EtcdAddress, Tls
from holloway.protocols.errors import RegistryError

ADDRESSES_OF_HOST_MAX = 8

log = logging.getLogger("holloway.registry")


async def find(address: EtcdAddress, material: Material, timing: EtcdTiming) -> tuple[Place, Material]:
    """Look the servers up. Returns where they are, and the material with whom to believe there.

    Raises RegistryError when no host is known, or with `skip_verify` when no server shows a certificate.
    """
    by_endpoint: dict[tuple[str, int], list[str]] = {}
    failures: list[str] = []
    async with trio.open_nursery() as nursery:
        for endpoint in address.endpoints:
            nursery.start_soon(_look_up, endpoint, timing.call_s, by_endpoint, failures)
    found = [(host, each[1]) for each in address.endpoints for host in by_endpoint.get(each, ())]
    if not found:
        raise RegistryError(
            f"The registry, {address}, cannot be found",
            "; ".join(failures),
            "check the hosts in the registry URL: getent hosts NAME",
        )
    tls = address.tls
    if tls is None:
        if address.user is not None and not all(ipaddress.ip_address(host).is_loopback for host, _ in found):
            log.warning("registry: the password for %s goes there without TLS: anybody on the way can read it", address)
        return Place(_target(found), None, str(address)), material
    if not tls.is_unverified:
        name = tls.server_name or address.endpoints[0][0].removesuffix(".")
        return Place(_target(found), name, str(address)), material
    log.warning("registry: skip_verify is on: whoever answers for %s while it is opened is believed", address)
    shown = await _certificates(found, tls, timing.connect_s, address)
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, sorted(shown))).encode()
    place = Place(_target(found), _common_name(shown, address), str(address))
    return place, dataclasses.replace(material, authorities=pem)


async def _look_up(
    endpoint: tuple[str, int], wait_s: float, found: dict[tuple[str, int], list[str]], failures: list[str]
) -> None:
    host, port = endpoint
    try:
        with trio.fail_after(wait_s):
            results = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        failures.append(f"{host}: {error.strerror}")
    except trio.TooSlowError:
        failures.append(f"{host}: no answer from the resolver within {wait_s:g} s")
    else:
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in results))
        found[endpoint] = [each for each in addresses if "%" not in each][:ADDRESSES_OF_HOST_MAX]


def _target(found: list[tuple[str, int]]) -> str:
    """All addresses in one target of gRPC, which has one family: IPv4 is written as IPv6 where both appear."""
    if all("." in host and ":" not in host for host, _ in found):
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in found)
    return "ipv6:" + ",".join(f"[{host if ':' in host else '::ffff:' + host}]:{port}" for host, port in found)


async def _certificates(found: list[tuple[str, int]], tls: Tls, wait_s: float, address: EtcdAddress) -> set[bytes]:
    """The certificates that the servers show now, in DER."""
    shown: set[bytes] = set()
    failures: list[str] = []
    context = context_of(tls)

    async def ask(host: str, port: int) -> None:
        try:
            with trio.fail_after(wait_s):
                async with await trio.open_tcp_stream(host, port) as stream:
                    tls_stream = trio.SSLStream(stream, context, https_compatible=True)
                    await tls_stream.do_handshake()
                    shown.add(tls_stream.getpeercert(binary_form=True))
        except trio.TooSlowError:
            failures.append(f"{host} port {port}: no answer within {wait_s:g} s")
        except (OSError, trio.BrokenResourceError) as error:
            failures.append(f"{host} port {port}: {error.__cause__ or error}")

    async with trio.open_nursery() as nursery:
        for host, port in found:
            nursery.start_soon(ask, host, port)
    if not shown:
        raise RegistryError(
            f"The registry, {address}, shows no certificate to believe",
            "; ".join(failures),
            "see whether it runs, and speaks TLS on this port: openssl s_client -connect HOST:PORT",
        )
    return shown


def _common_name(shown: set[bytes], address: EtcdAddress) -> str:
    """A name that all certificates have: gRPC checks one name for all servers, and cannot be told to check none."""
    common = set.intersection(*(_names(certificate) for certificate in shown))
    if not common:
        raise RegistryError(
            f"The registry, {address}, shows certificates that have no name in common",
            "one name is checked for all of them, even with skip_verify",
            "issue them with a common name, such as localhost, or name one server alone",
            kind="denied",
        )
    return min(common)


def _names(certificate: bytes) -> set[str]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        parsed = x509.load_der_x509_certificate(certificate)
        alternatives = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = set(alternatives.get_values_for_type(x509.DNSName))
        names |= set(map(str, alternatives.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        names = {str(each.value) for each in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    except ValueError:  # not a certificate that can be read
        return set()
    return {name.replace("*", "any", 1) for name in names}
