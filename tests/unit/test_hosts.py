"""Hosts: read strictly, and written in one way."""

from typing import Final

import pytest

from ledger.processes.hosts import (
    Authority,
    bound_host,
    is_loopback,
    is_wildcard,
    parse_authority,
    parse_host,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost:3000", "localhost", 3000),
        ("localhost.", "localhost", None),
        ("localhost.:80", "localhost", 80),
        ("a-b.my_service.example:65535", "a-b.my_service.example", 65535),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("127.0.0.1.", "127.0.0.1", None),
        ("[::1]", "::1", None),
        ("[0:0:0:0:0:0:0:1]:3000", "::1", 3000),
        ("[FE80::00A1]:3000", "fe80::a1", 3000),
        ("[::ffff:127.0.0.1]", "127.0.0.1", None),
        ("[::ffff:7f00:1]:3000", "127.0.0.1", 3000),
        # Names as far as anybody knows: only some programs read addresses in them.
        ("127.1", "127.1", None),
        ("2130706433", "2130706433", None),
        ("0177.0.0.1", "0177.0.0.1", None),
    ],
)
def test_a_host_with_or_without_a_port_is_read(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ":",
        ":3000",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:+80",
        "localhost:65536",
        "localhost:000080",
        "localhost:80:80",
        "localhost:\u0663",
        "localhost..",
        ".localhost",
        "a..b",
        " localhost",
        "localhost ",
        "localhost\n",
        "local host",
        "localhost,evil.test",
        "localhost, evil.test",
        "evil.test,localhost",
        "user@localhost",
        "user:password@localhost",
        "localhost@evil.test",
        "http://localhost",
        "localhost/",
        "localhost/evil.test",
        "localhost\\evil.test",
        "localhost?evil.test",
        "localhost#evil.test",
        "localhost%00.evil.test",
        "local%68ost",
        "localhost\0",
        "\u212aocalhost",
        "l\u014dcalhost",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[::1]evil.test",
        "[::1].",
        "[::1]:",
        "[::1]:http",
        "[[::1]]",
        "[127.0.0.1]",
        "[localhost]",
        "[::1%25lo]",
        "[::1%lo]",
        "[:::1]",
        "[::ffff:127.0.0.256]",
        "*",
        "*.example.org",
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_authority(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Ledger.Example.", "ledger.example"),
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("FE80:0::1", "fe80::1"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
    ],
)
def test_a_host_alone_is_read_with_and_without_brackets(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text", ["localhost:80", "[::1]:80", "fe80::1%eth0", "a:b:c", "1::2::3", ""]
)
def test_what_is_no_host_alone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_host(text)


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1:3000", "127.0.0.1"),
        ("Ledger.lan:3000", "ledger.lan"),
        ("0.0.0.0:80", "0.0.0.0"),
        ("[::]:80", "::"),
        (":::80", "::"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("fe80::1%eth0:80", "fe80::1"),
        ("unix:/run/ledger.sock", None),
        ("unix:ledger:3000", None),
    ],
)
def test_the_host_that_is_listened_on_is_read(bind: str, host: str | None) -> None:
    assert bound_host(bind) == host


KINDS: Final = {
    "localhost": "loopback",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "0.0.0.0": "wildcard",
    "::": "wildcard",
    "10.0.0.7": None,
    "fe80::1": None,
    "evil.test": None,
    "localhost.evil.test": None,
    "127.1": None,
    "0177.0.0.1": None,
}


def test_loopback_and_wildcard_addresses_are_known() -> None:
    assert [host for host in KINDS if is_loopback(host)] == kind("loopback")
    assert [host for host in KINDS if is_wildcard(host)] == kind("wildcard")


def kind(name: str) -> list[str]:
    return [host for host, kind in KINDS.items() if kind == name]
