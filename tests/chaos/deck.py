"""Chance that leaves nothing out."""

from collections.abc import Iterable
from random import Random
from typing import Generic, TypeVar

Card = TypeVar("Card")


class Deck(Generic[Card]):
    """Cards that are drawn one after the other, and shuffled again once all were drawn.

    With dice, something rare would not happen in one run of some.

    Args:
        cards: The cards; one that is there twice is drawn twice as often.
        chance: How they are shuffled.
    """

    def __init__(self, cards: Iterable[Card], chance: Random) -> None:
        self._cards = list(cards)
        self._chance = chance
        self._left: list[Card] = []

    def draw(self) -> Card:
        """Return the next card."""
        if not self._left:
            self._left = self._cards.copy()
            self._chance.shuffle(self._left)
        return self._left.pop()

    def put_back(self, card: Card) -> None:
        """Put a card back that was of no use now; it is drawn last."""
        self._left.insert(0, card)
