"""A terminal emulator with the control sequences that Rich uses, and unlimited height."""

import re
from typing import Final

# A control sequence, a carriage return, a line feed, or a character.
_PIECE: Final = re.compile(r"\x1b\[\??([0-9;]*)([A-Za-z])|\r|\n|[^\x1b]")


def shown(sent: str, *, columns: int) -> list[str]:
    """Return the lines that the terminal shows after all of *sent*.

    Args:
        sent: Text and control sequences.
        columns: Width of the terminal; longer lines are wrapped.
    """
    lines: list[list[str]] = [[]]
    row = column = 0
    for piece in _PIECE.finditer(sent):
        number, kind = piece.groups()
        if kind == "A":
            row = max(0, row - int(number or 1))
        elif kind == "K":
            assert number == "2", piece[0]
            lines[row] = []
        elif kind is not None:
            # Colours, and the visibility of the cursor.
            assert kind in "mhl", piece[0]
        elif piece[0] == "\r":
            column = 0
        elif piece[0] == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += " " * (column + 1 - len(lines[row]))
            lines[row][column] = piece[0]
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
