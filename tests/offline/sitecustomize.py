"""No network in tests: a Python that finds this folder on PYTHONPATH refuses to leave the machine.

Python imports `sitecustomize` when it starts, so notebook kernels, servers and every other child of the tests are held
too. An audit hook sees each connection and each look-up of a name, whoever makes it, and can't be taken off again; the
machine talks to itself freely, as kernels must. Held only while INFALIGN_OFFLINE names a file, to which refused hosts are
appended: code that swallows the error is found all the same. Left out: sockets made by C code, and the browser.
"""

import os
import sys

WATCHED = ("connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr")


class NetworkRefused(OSError):
    """A test, or a notebook under test, tried to reach another machine."""


def host(event, arguments):
    """The host that a socket event is about; "" for a Unix socket, or one that is connected already."""
    if event in ("getaddrinfo", "gethostbyname", "gethostbyaddr"):
        found = arguments[0]
    else:
        address = arguments[1] if len(arguments) > 1 else None
        found = address[0] if isinstance(address, tuple) else ""
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found or "")


def local(name):
    """Whether a host is this machine: nothing at all, localhost, a loopback address or "any address"."""
    if name in ("", "localhost"):
        return True
    import ipaddress

    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(event, arguments):
    """The audit hook."""
    if not event.startswith("socket."):
        return
    log, event = os.environ.get("INFALIGN_OFFLINE"), event[7:]
    if not log or event not in WATCHED or local(host(event, arguments)):
        return
    from pathlib import Path

    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{host(event, arguments)} by {' '.join(sys.argv[:2]) or sys.executable}\n")
    raise NetworkRefused(f"tests run without a network: {event} to {host(event, arguments)} refused")


if not hasattr(sys, "infalign_offline"):
    sys.infalign_offline = True
    sys.addaudithook(refuse)
