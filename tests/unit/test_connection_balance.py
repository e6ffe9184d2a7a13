"""Which process takes the next connection."""

import gc

from ledger.api.server.connection_balance import Shares


class Owner:
    """The entry of a process in its parent."""


def test_only_one_who_has_more_than_one_more_is_ahead() -> None:
    shares, owners = Shares(), [Owner(), Owner(), Owner()]
    first, second, third = (shares.join(owner) for owner in owners)

    first.publish(5)
    second.publish(4)
    third.publish(3)
    assert [share.is_ahead() for share in (first, second, third)] == [True, False, False]

    third.publish(4)
    assert not first.is_ahead()


def test_who_has_died_is_waited_for_by_nobody_and_its_place_is_given_again() -> None:
    shares, staying, dying = Shares(), Owner(), Owner()
    share = shares.join(staying)
    shares.join(dying)
    share.publish(9)
    assert share.is_ahead()

    del dying
    gc.collect()
    assert not share.is_ahead()

    replacement = Owner()
    shares.join(replacement)
    assert share.is_ahead()


def test_beyond_the_last_place_nobody_stands_back() -> None:
    shares, owners = Shares(), [Owner() for _ in range(100)]
    last = [shares.join(owner) for owner in owners][-1]

    last.publish(1_000)

    assert not last.is_ahead()
