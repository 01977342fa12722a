"""Opening TUN devices: making one, or attaching to one that is there, and one more queue of either; and saying in three lines why
the kernel would not.

Not responsible for what the device is used for: that is `tun`.

Source: Linux `Documentation/networking/tuntap.rst` and `include/uapi/linux/if_tun.h`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from holloway.actors.tun import KernelTun
from holloway.actors.tun_attached import attached_queues
from holloway.actors.tun_offload import IFF_VNET_HDR, IFREQ
from holloway.actors.tun_steering import unsteer
from holloway.protocols.errors import TunError

CLONE_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_MULTI_QUEUE = 0x0100
NAME_MAX_BYTES = 15  # IFNAMSIZ less its NUL

_OPEN_REFUSED = {
    errno.ENOENT: (
        f"ENOENT: there is no {CLONE_DEVICE}",
        "sudo modprobe tun; in a container, pass --device=/dev/net/tun",
    ),
    errno.ENODEV: (f"ENODEV: the kernel has no driver for {CLONE_DEVICE}", "sudo modprobe tun"),
    errno.ENXIO: (f"ENXIO: the kernel has no driver for {CLONE_DEVICE}", "sudo modprobe tun"),
    errno.EACCES: (f"EACCES: this user may not open {CLONE_DEVICE}", f"sudo chmod 0666 {CLONE_DEVICE}, or run as root"),
    errno.EPERM: (
        f"EPERM: a container or device policy forbids {CLONE_DEVICE}",
        "pass --device=/dev/net/tun to the container, or DeviceAllow=/dev/net/tun rw to the unit",
    ),
}
_ATTACH_REFUSED = {
    errno.EPERM: (
        "EPERM from TUNSETIFF: this process lacks CAP_NET_ADMIN and the device is not one made for its user",
        "run as root, or once: sudo ip tuntap add {name} mode tun user $USER",
    ),
    errno.EBUSY: (
        "EBUSY from TUNSETIFF: another process is attached to it",
        "stop that process (sudo grep -l 'iff:.*{name}' /proc/*/fdinfo/* names it), or choose another interface name",
    ),
    errno.EINVAL: (
        "EINVAL from TUNSETIFF: an interface of that name exists and is not a TUN device",
        "choose another interface name, or: sudo ip link delete {name}",
    ),
    errno.ENOSPC: (
        "ENOSPC from TUNSETIFF: a limit on network objects of this user or namespace is reached",
        "raise user.max_net_namespaces and its neighbours: sysctl user",
    ),
}
_ATTACH_SEVERAL_REFUSED = _ATTACH_REFUSED | {
    errno.EPERM: (
        "EPERM from TUNSETIFF: this process lacks CAP_NET_ADMIN and the device is not one made for its user",
        "run as root, or once: sudo ip tuntap add {name} mode tun multi_queue user $USER",
    ),
    errno.EINVAL: (
        "EINVAL from TUNSETIFF: an interface of that name exists and is not a TUN device of several queues",
        "choose another interface name, or: sudo ip link delete {name}",
    ),
}
_ANY_REFUSED = {
    errno.EMFILE: ("EMFILE: this process has too many open files", "raise the limit: ulimit -n 65536"),
    errno.ENFILE: ("ENFILE: the system has too many open files", "raise it: sudo sysctl -w fs.file-max=1000000"),
}


def open_tun(
    name: str, mtu: int, *, offloads: bool = True, receive_super: bool = True, several: bool = False
) -> KernelTun:
    """Make the TUN device `name`, or attach to a persistent one of that name, which needs no privilege for its owner.

    `mtu` is remembered as `KernelTun.mtu`; the device gets it from `Netlink.configure`. Without `offloads` every packet is
    one packet, with its checksums; so it is with a kernel that has none. Without `receive_super` it is so for `receive`
    alone: the kernel cuts and sums the packets it gives, which for somebody who needs them cut is cheaper than
    `SuperPacket.segments`. With `several` it may get more queues (`open_tun_queue`), as may a persistent device that was
    made for them, but never those of another program: the kernel would share it out without a word. Raises `TunError`.
    """
    what = f"cannot open the TUN device {name!r}"
    if reason := _name_fault(name):
        raise TunError(what, reason, "choose an interface name such as hw0")
    try:
        descriptor = os.open(CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(what, name, error, _OPEN_REFUSED) from error
    try:
        if several and attached_queues(name):
            raise OSError(errno.EBUSY, "in use")
        _attach(descriptor, name, IFF_MULTI_QUEUE if several else 0, offloads=offloads)
        if several and (attached_queues(name) or 1) > 1:  # by somebody who began when we did
            raise OSError(errno.EBUSY, "in use")
        if several:
            with suppress(OSError):  # a kernel that cannot be told has not been told otherwise
                unsteer(descriptor)
        return KernelTun(descriptor, name, mtu, receive_super=receive_super)
    except OSError as error:
        os.close(descriptor)
        if not several and error.errno == errno.EINVAL and _has_several(name):
            return open_tun(name, mtu, offloads=offloads, receive_super=receive_super, several=True)
        raise _refused(what, name, error, _ATTACH_SEVERAL_REFUSED if several else _ATTACH_REFUSED) from error


def _has_several(name: str) -> bool:
    """Whether there is a device of that name that was made for several queues."""
    try:
        return attached_queues(name) is not None
    except OSError:
        return False


def open_tun_queue(device: KernelTun, *, receive_super: bool = True) -> KernelTun:
    """One more queue of a device that `open_tun` opened with `several`. `receive_super`: as it was there. Raises `TunError`."""
    what = f"cannot open one more queue of the TUN device {device.name!r}"
    try:
        descriptor = os.open(CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(what, device.name, error, _OPEN_REFUSED) from error
    try:
        # Whether there is a virtio header was settled with the first queue, whatever the flags of the others say (tun_set_iff).
        flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE
        fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(device.name.encode(), flags))
        return KernelTun(descriptor, device.name, device.mtu, receive_super=receive_super)
    except OSError as error:
        os.close(descriptor)
        raise _refused(what, device.name, error, _ATTACH_SEVERAL_REFUSED) from error


def _attach(descriptor: int, name: str, more: int, *, offloads: bool) -> None:
    """Raises `OSError`."""
    flags = IFF_TUN | IFF_NO_PI | more
    if offloads:
        try:
            fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(name.encode(), flags | IFF_VNET_HDR))
        except OSError as error:
            if error.errno != errno.EINVAL:  # an interface of another kind, or a kernel without virtio headers
                raise
        else:
            return
    fcntl.ioctl(descriptor, TUNSETIFF, IFREQ.pack(name.encode(), flags))


def _name_fault(name: str) -> str:
    """Why the kernel would not take `name` for an interface (dev_valid_name), or would take it for a pattern; or ''."""
    if not name or name in {".", ".."}:
        return "the name is empty or a dot"
    if len(name.encode("utf-8", "replace")) > NAME_MAX_BYTES:
        return f"the name is longer than {NAME_MAX_BYTES} bytes"
    if any(char in "/:%" or char.isspace() or not char.isprintable() for char in name):
        return "the name holds a space, a control character, or one of / : %"
    return ""


def _refused(what: str, name: str, error: OSError, table: dict[int, tuple[str, str]]) -> TunError:
    why, fix = {**_ANY_REFUSED, **table}.get(
        error.errno or 0,
        (
            f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror}",
            "see what the kernel says: sudo dmesg | tail",
        ),
    )
    return TunError(what, why, fix.format(name=name))
