"""The chain is what the design says, by hashlib and by hand."""

import hashlib
from typing import Any

import pytest

from ledger.log import hash_chain

EVENT: dict[str, Any] = {
    "position": 7,
    "job_id": 12,
    "version": 3,
    "kind": "started",
    "schema": 1,
    "at_ms": 1_700_000_000_000,
    "actor": "worker:höst:1:1",
    "cause": None,
    "body": '{"attempt":1}',
    "digest": bytes(range(32)),
}


def prefixed(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "big") + raw


def test_a_leaf_is_the_hash_of_every_column_that_is_kept() -> None:
    written_out = (
        b"\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x017"
        b"\x00\x00\x00\x00\x00\x00\x00\x0212"
        b"\x00\x00\x00\x00\x00\x00\x00\x013"
        b"\x00\x00\x00\x00\x00\x00\x00\x07started"
        b"\x00\x00\x00\x00\x00\x00\x00\x011"
        b"\x00\x00\x00\x00\x00\x00\x00\x0d1700000000000"
        b"\x00\x00\x00\x00\x00\x00\x00\x10worker:h\xc3\xb6st:1:1"
        b"\xff\xff\xff\xff\xff\xff\xff\xff"
        b'\x00\x00\x00\x00\x00\x00\x00\x0d{"attempt":1}'
        b"\x00\x00\x00\x00\x00\x00\x00\x20" + bytes(range(32))
    )

    assert hash_chain.leaf(**EVENT) == hashlib.sha256(written_out).digest()


def test_a_leaf_is_this_for_ever() -> None:
    assert hash_chain.leaf(**EVENT).hex() == (
        "5026b578aeef2402ffc86f21ca1228a5afa5ea4397874ad11a53b07a2d9de8e9"
    )
    assert hash_chain.link(hash_chain.GENESIS, hash_chain.leaf(**EVENT)).hex() == (
        "3882697f16c170a8da865cd81f619cee7aa18a53363d43057ebeeb0f58e19d85"
    )


def test_a_link_is_the_hash_of_the_link_before_and_the_leaf() -> None:
    first = hash_chain.link(bytes(32), b"a" * 32)
    second = hash_chain.link(first, b"b" * 32)

    assert first == hashlib.sha256(b"\x01" + bytes(32) + b"a" * 32).digest()
    assert second == hashlib.sha256(b"\x01" + first + b"b" * 32).digest()


def test_the_chain_begins_at_nothing() -> None:
    assert bytes(32) == hash_chain.GENESIS


@pytest.mark.parametrize("column", sorted(EVENT))
def test_a_change_of_any_column_changes_the_leaf(column: str) -> None:
    other = {int: 8, str: "other", bytes: bytes(32), type(None): "other"}[type(EVENT[column])]

    assert hash_chain.leaf(**EVENT | {column: other}) != hash_chain.leaf(**EVENT)


def test_null_and_empty_are_not_the_same() -> None:
    assert hash_chain.leaf(**EVENT | {"cause": None}) != hash_chain.leaf(**EVENT | {"cause": ""})
    assert hash_chain.leaf(**EVENT | {"digest": None}) != hash_chain.leaf(**EVENT | {"digest": b""})


def test_null_is_not_its_own_mark() -> None:
    assert hash_chain.leaf(**EVENT | {"digest": None}) != hash_chain.leaf(
        **EVENT | {"digest": b"\xff" * 8}
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"actor": "ab", "cause": "c"}, {"actor": "a", "cause": "bc"}),
        ({"cause": "ab", "body": "c"}, {"cause": "a", "body": "bc"}),
        ({"position": 71, "job_id": 2}, {"position": 7, "job_id": 12}),
        ({"kind": "started", "schema": 11}, {"kind": "started1", "schema": 1}),
    ],
)
def test_bytes_cannot_be_shifted_between_columns(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert hash_chain.leaf(**EVENT | one) != hash_chain.leaf(**EVENT | other)


def test_a_leaf_cannot_pose_as_a_link() -> None:
    leaf = hash_chain.leaf(**EVENT)

    assert hash_chain.link(bytes(32), leaf) != hashlib.sha256(b"\x00" + bytes(32) + leaf).digest()


def test_a_digest_commits_to_salt_and_content() -> None:
    assert hash_chain.digest(b"s" * 16, '"ü"') == hashlib.sha256(b"s" * 16 + b'"\xc3\xbc"').digest()
    assert hash_chain.digest(b"s" * 16, "1") != hash_chain.digest(b"t" * 16, "1")


def test_no_two_salts_are_the_same() -> None:
    salts = {hash_chain.salt() for _ in range(100)}

    assert (len(salts), {len(salt) for salt in salts}) == (100, {16})
