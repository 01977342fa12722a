"""Plugins in real processes: the sample package, those that are broken, and names that somebody has already; and control without keys."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_processes import Site
from daemons import wait_until
from plugin_packages import TOLD, install_odd_ones, install_sample


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.environ["PYTHONPATH"] = f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', '')}"
    yield site
    site.end()


@pytest.mark.soak
def test_plugins_are_found_by_every_process_and_those_that_are_broken_are_told(site: Site) -> None:
    packages = site.folder / "packages"
    site.environ["HOLLOWAY_COOKBOOK_PROGRAM"] = str(install_sample(packages))
    install_odd_ones(packages)
    site.broker()
    site.trust()
    assert site.call("client", "create", "--role", "node", "--name", "web1").returncode == 0
    site.agent("web1", "--file-port", str(site.file_port))
    for log in (site.log("broker"), site.log("web1")):
        for told in TOLD:
            assert told in log
    assert site.call("good", "run").stdout == "run by a plugin\n"
    (site.folder / "nginx").mkdir()
    (site.folder / "nginx" / "recipe").write_text("listen 80\n")
    assert site.call("cookbook", "upload", "nginx").returncode == 0
    ran = site.call("cookbook", "run", "nginx")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("recipe[nginx]\nlisten 80\n")


# Control without keys.


def test_without_keys_everybody_is_whom_he_says_and_is_warned(site: Site) -> None:
    site.start(
        "broker",
        *("broker", "--root", "b", "--security", "null", "--bind", "0.0.0.0", "--force-null"),
        *("--command-port", str(site.port), "--file-port", str(site.file_port)),
    )
    wait_until(lambda: "files on" in site.log("broker"), "the broker")
    assert "whoever reaches the broker's port commands every node" in site.log("broker")
    assert "server_public_key" not in site.log("broker")
    site.environ["HOLLOWAY_SECURITY"] = "null"
    site.start("web1", "agent", "--name", "web1")
    wait_until(lambda: "registered as web1" in site.log("web1"), "the agent")
    assert "whoever reaches the broker's port" in site.log("web1")
    with socket.create_connection(("127.0.0.2", site.port), timeout=5):
        pass  # anybody may come by any address
    echoed = site.call("echo", "hi")
    assert (echoed.returncode, echoed.stdout) == (0, "hi\n")
    assert "warning: security is null" in echoed.stderr
    (site.folder / "file").write_text("text")
    assert site.call("file", "put", "file", "there").returncode == 0
    # Nobody gets into the list of keys by this way, which counts when keys do.
    key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    refused = site.call("client", "create", "--role", "admin", "--name", "eve", "--public-key", key)
    assert refused.returncode == 1
    assert "over a connection without keys" in refused.stderr
    del site.environ["HOLLOWAY_SECURITY"]
    trail = (site.folder / "b" / "broker" / "audit.jsonl").read_text()
    assert '"event":"security"' in trail
    assert "whoever comes is whom he says" in trail
    assert '"event":"security"' in (site.folder / ".holloway" / "web1" / "agent" / "audit.jsonl").read_text()
    with_key = site.folder / ".holloway" / "keys.yml"
    with_key.write_text('server_public_key: "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"\n')
    other = site.call("echo", "hi")
    assert other.returncode == 1
    assert "speaks another language" in other.stderr
