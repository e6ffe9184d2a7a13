"""Chance that leaves nothing out."""

import threading
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
        self._lock = threading.Lock()

    def draw(self) -> Card:
        """Return the next card; several threads may draw."""
        with self._lock:
            if not self._left:
                self._left = self._cards.copy()
                self._chance.shuffle(self._left)
            return self._left.pop()

    def put_back(self, card: Card) -> None:
        """Put a card back that was of no use now; it is drawn last."""
        with self._lock:
            self._left.insert(0, card)
