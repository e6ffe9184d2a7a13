"""Parsing and normalization of the hosts in settings and requests.

Names are compared in lower case and without a trailing dot, addresses by value: ``[::1]``,
``::1`` and ``[0:0:0:0:0:0:0:1]`` are the same host.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

Address = IPv4Address | IPv6Address


class Authority(NamedTuple):
    """A host and an optional port.

    Attributes:
        host: A name in lower case, or an address; IPv6 without brackets.
        port: None if no port was given.
    """

    host: str
    port: int | None


# Container names may contain an underscore.
_NAME: Final = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_AUTHORITY: Final = re.compile(
    rf"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>{_NAME})\.?)(?::(?P<port>[0-9]{{1,5}}))?",
    re.ASCII | re.IGNORECASE,
)


def parse_authority(text: str) -> Authority:
    """Return the host and the port of ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: *text* is something else.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError(text)
    ipv6, name, port = match.group("ipv6", "name", "port")
    if port is not None and int(port) >= 1 << 16:
        raise ValueError(text)
    host = name.lower() if ipv6 is None else _ipv6(ipv6)
    return Authority(host, None if port is None else int(port))


def parse_host(text: str) -> str:
    """Return the normalized host in *text*, a name or an address without a port.

    Raises:
        ValueError: *text* is something else.
    """
    if text.count(":") > 1 and not text.startswith("["):
        return _ipv6(text)
    host, port = parse_authority(text)
    if port is not None:
        raise ValueError(text)
    return host


def bound_host(bind: str) -> str | None:
    """Return the host of ``HOST:PORT``, or None for ``unix:PATH``.

    Raises:
        ValueError: *bind* is something else.
    """
    if bind.startswith("unix:"):
        return None
    host = bind.rpartition(":")[0]
    # A zone is not part of the name that clients use for the server.
    return parse_host(re.sub(r"%[^\]]*", "", host))


def address_of(host: str) -> Address | None:
    """Return *host* as an address, or None if it is a name."""
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether *host* always means this machine."""
    address = address_of(host)
    return host == "localhost" if address is None else address.is_loopback


def is_wildcard(host: str) -> bool:
    """Return whether *host* stands for all addresses of this machine."""
    address = address_of(host)
    return address is not None and address.is_unspecified


def _ipv6(text: str) -> str:
    # A zone is meaningful only on the machine that wrote it.
    if "%" in text:
        raise ValueError(text)
    address = IPv6Address(text)
    return str(address.ipv4_mapped or address)
