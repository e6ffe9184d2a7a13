"""Which hosts are ours, and which pages."""

import pytest

from ledger.api.http.origins import Hosts, is_own_origin

LOOPBACK = ("localhost", "localhost:3000", "127.0.0.1:80", "127.3.2.1", "[::1]:3000")
NAMES = ("ledger.lan", "ledger.lan:3000", "Ledger.LAN.")
ADDRESSES = ("10.0.0.7", "10.0.0.7:3000", "[fe80::1]:3000", "0.0.0.0", "8.8.8.8")
STRANGERS = (
    "evil.test",
    "evil.ledger.lan",
    "ledger.lan.evil.test",
    "127.1",
    "2130706433",
    "0x7f000001",
    "10.0.0.7.evil.test",
    "ledger.lan,evil.test",
    "user@ledger.lan",
    "",
)


@pytest.mark.parametrize(
    ("named", "accepted"),
    [
        ((), LOOPBACK),
        (("127.0.0.1",), LOOPBACK),
        (("ledger.lan",), (*LOOPBACK, *NAMES)),
        (("10.0.0.7",), (*LOOPBACK, "10.0.0.7", "10.0.0.7:3000")),
        (("0.0.0.0",), (*LOOPBACK, *ADDRESSES)),
        (("::",), (*LOOPBACK, *ADDRESSES)),
        (("::", "ledger.lan"), (*LOOPBACK, *ADDRESSES, *NAMES)),
    ],
)
def test_a_host_is_ours_if_it_is_this_machine_or_named(
    named: tuple[str, ...], accepted: tuple[str, ...]
) -> None:
    hosts = Hosts(named)
    asked = (*LOOPBACK, *ADDRESSES, *NAMES, *STRANGERS)

    assert [host for host in asked if hosts.accept(host)] == [
        host for host in asked if host in accepted
    ]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:3000", "localhost:3000"),
        ("http://localhost:3000", "LOCALHOST.:3000"),
        ("http://localhost", "localhost"),
        ("http://localhost", "localhost:80"),
        ("http://localhost:80", "localhost"),
        ("https://ledger.example", "ledger.example"),
        ("https://ledger.example", "ledger.example:443"),
        ("https://ledger.example:8443", "ledger.example:8443"),
        ("http://[::1]:3000", "[0::1]:3000"),
    ],
)
def test_a_page_is_ours_if_it_has_the_host_and_port_of_the_request(origin: str, host: str) -> None:
    assert is_own_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.test", "localhost:3000"),
        ("http://localhost:3001", "localhost:3000"),
        ("http://localhost", "localhost:3000"),
        ("http://localhost:3000", "localhost"),
        ("http://localhost", "localhost:443"),
        ("https://localhost", "localhost:80"),
        ("http://127.0.0.1:3000", "localhost:3000"),
        ("ftp://localhost", "localhost"),
        ("chrome-extension://localhost", "localhost"),
        ("localhost", "localhost"),
        ("//localhost", "localhost"),
        ("http://localhost/", "localhost"),
        ("http://user@localhost", "localhost"),
        ("http://localhost, http://evil.test", "localhost"),
        ("null", "null"),
        ("", ""),
        ("http://", ""),
        ("http://localhost", None),
    ],
)
def test_any_other_page_is_foreign(origin: str, host: str | None) -> None:
    assert not is_own_origin(origin, host)
