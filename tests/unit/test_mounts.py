"""The list of mounts, as Linux writes it."""

import pytest

from ledger.database.sqlite_location import Mount, parse_mounts

# As recorded, except for the names.
RECORDED = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 25 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24683656k
41 27 0:45 / /net/jobs rw,relatime shared:9 master:2 - nfs4 host:/jobs rw,vers=4.2
52 27 254:0 /home/ann/ledger.db /app/ledger.db rw,relatime - ext4 /dev/vda rw,discard
61 27 0:51 / /home/ann/far\040away rw,nosuid - fuse.sshfs ann@host: rw,user_id=0
"""


def test_a_line_says_where_and_what_a_mount_is_however_many_fields_it_has() -> None:
    assert list(parse_mounts(RECORDED)) == [
        Mount("/home/ann/far away", "fuse.sshfs"),
        Mount("/app/ledger.db", "ext4"),
        Mount("/net/jobs", "nfs4"),
        Mount("/dev/shm", "tmpfs"),  # noqa: S108 - as recorded
        Mount("/", "ext4"),
    ]


@pytest.mark.parametrize(
    ("escaped", "point"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b\012c", "/a\tb\nc"),
        (r"/a\134040b", r"/a\040b"),
        (r"/a\043", "/a#"),
        # Python takes these for the end of a line, Linux does not.
        ("/a\x0b\x1c\x85b\r", "/a\x0b\x1c\x85b\r"),
        ("/s\udcfcd", "/s\udcfcd"),
    ],
)
def test_what_would_break_a_line_is_escaped(escaped: str, point: str) -> None:
    line = f"1 2 0:3 / {escaped} rw - ext4 /dev/vda rw\n"

    assert [mount.point for mount in parse_mounts(line)] == [point]


@pytest.mark.parametrize("text", ["", "\n", "1 2 0:3 /", "nonsense - ext4"])
def test_a_line_that_is_cut_short_is_no_mount(text: str) -> None:
    assert list(parse_mounts(text)) == []
