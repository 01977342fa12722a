"""The verbs of the command line, each with the line that help shows. Not responsible for what they do."""

from __future__ import annotations

from typing import Final

VERBS: Final = {
    "init": "Make a network, and its first node on this machine.",
    "invite": "Print an invitation for one more machine.",
    "join": "Become a node of a network that this machine was invited to.",
    "sign": "Answer requests that came as a file.",
    "certify": "Let a node of the network announce more networks.",
    "revoke": "Take a node out of the network.",
    "release": "Let go of a node that is gone, or of its address.",
    "network": "Show the settings of the network, or change them.",
    "authority": "Show the network's authority, or let another one follow it.",
    "up": "Run a node in the foreground until SIGTERM or Ctrl-C.",
    "demo": "Bring up two nodes on this machine and ping through the tunnel.",
    "status": "Show the node and its peers.",
    "peers": "Show each peer in detail.",
    "routes": "Show where packets go, and whether the kernel sends them there.",
    "ping": "Measure the way to a peer.",
    "broker": "Run the broker between operators and nodes.",
    "agent": "Run the jobs of a broker on this machine.",
    "client": "Let clients in, list them, take them out.",
    "clients": "Show the nodes that the broker knows.",
    "echo": "Have nodes say MESSAGE back.",
    "exec": "Run a program on nodes.",
    "file": "Put files to the broker, and get them.",
    "upload": "Make a folder at the broker like one of this machine.",
    "download": "Make a folder of this machine like one at the broker.",
    "sync": "Make folders of nodes like one at the broker.",
    "edit": "Edit the configuration of an application at the broker.",
    "jobs": "List, show, wait for and cancel jobs.",
    "audit": "Check the audit trail of a broker or an agent.",
    "check": "Name every problem of a configuration file.",
    "keygen": "Make a private key.",
    "pubkey": "Print the public key of the private key on stdin.",
    "simulate": "Play hostile networks in one process, from a seed.",
    "config": "Show or explain the configuration.",
    "completion": "Print the completion script of a shell.",
    "version": "Print the version.",
}
