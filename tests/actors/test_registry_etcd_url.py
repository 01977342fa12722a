"""What an etcd URL says, and which are refused."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from holloway.actors.registry import open_registry
from holloway.actors.registry.etcd_url import ENDPOINTS_MAX, EtcdAddress, Tls, parse_etcd_url
from holloway.protocols.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("etcd://localhost", EtcdAddress((("localhost", 2379),))),
        ("etcd://localhost/", EtcdAddress((("localhost", 2379),))),
        ("ETCD://a.example.org.:1", EtcdAddress((("a.example.org.", 1),))),
        (
            "etcd://10.0.0.1:23,[2001:db8::1]:24,[::1]",
            EtcdAddress((("10.0.0.1", 23), ("2001:db8::1", 24), ("::1", 2379))),
        ),
        ("etcd://h/a/b", EtcdAddress((("h", 2379),), b"/a/b")),
        ("etcd://h/a/", EtcdAddress((("h", 2379),), b"/a/")),
        ("etcd://h/%FF%3F%2F", EtcdAddress((("h", 2379),), b"/\xff?/")),
        ("etcd://h?tls=no", EtcdAddress((("h", 2379),))),
        ("etcd://h?tls=yes", EtcdAddress((("h", 2379),), tls=Tls())),
        ("etcd://h?ca=/a%20b+c", EtcdAddress((("h", 2379),), tls=Tls(Path("/a b+c")))),
        ("etcd://h?cert=/c&key=/k", EtcdAddress((("h", 2379),), tls=Tls(None, Path("/c"), Path("/k")))),
        ("etcd://h?skip_verify=yes", EtcdAddress((("h", 2379),), tls=Tls(is_unverified=True))),
        ("etcd://h,i?skip_verify=yes", EtcdAddress((("h", 2379), ("i", 2379)), tls=Tls(is_unverified=True))),
        ("etcd://h:1,h:2?tls=yes", EtcdAddress((("h", 1), ("h", 2)), tls=Tls())),
        ("etcd://h,i?tls=yes&server_name=n", EtcdAddress((("h", 2379), ("i", 2379)), tls=Tls(server_name="n"))),
        (
            "etcd://h/p?user=alice&password_file=/p",
            EtcdAddress((("h", 2379),), b"/p", None, "alice", Path("/p")),
        ),
    ],
)
def test_url_says_where_and_how_safely_and_as_whom(url: str, address: EtcdAddress) -> None:
    assert parse_etcd_url(url) == address


@pytest.mark.parametrize(
    ("url", "why", "fix"),
    [
        ("etcd:", "names no host", "etcd://HOST"),
        ("etcd:localhost", "names no host", "etcd://HOST"),
        ("etcd://", "a host is missing", "etcd://HOST"),
        ("etcd:///prefix", "a host is missing", "etcd://HOST"),
        ("etcd://a,,b", "a host is missing", "etcd://HOST"),
        ("etcd://a,a:2379", "twice", "once"),
        ("etcd://" + ",".join(f"h{n}" for n in range(ENDPOINTS_MAX + 1)), f"at most {ENDPOINTS_MAX}", "fewer"),
        ("etcd://2001:db8::1", "brackets", "[2001:db8::1]"),
        ("etcd://[10.0.0.1]", "no IPv6 address", "[2001:db8::1]"),
        ("etcd://[::1", "no IPv6 address", "[2001:db8::1]"),
        ("etcd://[fe80::1%25eth0]", "no IPv6 address", "[2001:db8::1]"),
        ("etcd://[::1]2379", "no port", "2379"),
        ("etcd://10.0.0.256", "no host name", "etcd://HOST"),
        ("etcd://a_b-.org", "no host name", "etcd://HOST"),
        ("etcd://" + "a" * 64, "no host name", "etcd://HOST"),
        ("etcd://unix%3A", "no host name", "etcd://HOST"),
        ("etcd://h:", "no port", "2379"),
        ("etcd://h:0", "no port", "2379"),
        ("etcd://h:65536", "no port", "2379"),
        ("etcd://h:99999999999", "no port", "2379"),
        ("etcd://h:-1", "no port", "2379"),
        ("etcd://h/p#x", "fragment", "%23"),
        ("etcd://h/" + "p" * 512, "prefix is longer", "shorter"),
        ("etcd://h?pasword_file=/x", "no setting 'pasword_file'", "did you mean password_file?"),
        ("etcd://h?CA=/x", "no setting 'CA'", "did you mean ca?"),
        ("etcd://h?timeout=3", "no setting 'timeout'", "skip_verify"),
        ("etcd://h?&", "no setting ''", "it may have"),
        ("etcd://h?ca=/x&ca=/x", "ca twice", "once"),
        ("etcd://h?ca", "ca has no value", "ca=VALUE"),
        ("etcd://h?ca=", "ca has no value", "ca=VALUE"),
        ("etcd://h?ca=here.pem", "no absolute path", "/etc/holloway"),
        ("etcd://h?ca=/x%00", "no absolute path", "/etc/holloway"),
        ("etcd://h?cert=/x", "belong together", "both"),
        ("etcd://h?key=/x", "belong together", "both"),
        ("etcd://h?user=alice", "belong together", "certificate"),
        ("etcd://h?password_file=/x", "belong together", "certificate"),
        ("etcd://h?user=a%0Ab&password_file=/x", "no name that etcd knows", "user list"),
        ("etcd://h?tls=true", "'true'", "tls=yes"),
        ("etcd://h?skip_verify=1", "'1'", "skip_verify=yes"),
        ("etcd://h?tls=no&ca=/x", "contradicts", "leave"),
        ("etcd://h?skip_verify=yes&ca=/x", "contradicts", "can be verified"),
        ("etcd://h?server_name=x", "without TLS", "tls=yes"),
        ("etcd://h?tls=yes&server_name=a/b", "no name", "certificates"),
        ("etcd://h,i?tls=yes", "one", "server_name=NAME"),
    ],
)
def test_url_that_cannot_be_meant_is_refused_at_once_with_the_way_to_write_it(url: str, why: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_registry(url, wall_ns=time.time_ns)
    assert repr(url) in caught.value.what
    assert why in caught.value.why
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "url", ["etcd://alice:sesame@h/p", "etcd://h,alice:se/same@h", "etcd:alice:sesame@h", "etcd://a:sesame@"]
)
def test_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_etcd_url(url)
    assert "sesame" not in repr(caught.value)
    assert "se/same" not in repr(caught.value)
    assert "password_file=FILE" in caught.value.fix


def test_address_is_shown_as_people_write_it() -> None:
    assert str(parse_etcd_url("etcd://h,[::1]:1/p?tls=yes&server_name=n")) == "etcd at h:2379, [::1]:1"


def test_grpc_is_loaded_only_by_who_opens_etcd() -> None:
    code = (
        "import sys, time, holloway.actors.registry as r; r.open_registry('etcd://h/p', wall_ns=time.time_ns);"
        "print([m for m in ('grpc', 'google.protobuf', 'trio_asyncio', 'asyncio') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split() == [b"[]"]
