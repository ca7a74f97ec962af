"""Tables for people: broken into pieces that a terminal can show."""

import pytest

from comdefend.paper.settings import Grid

GRID = Grid(
    "A table",
    ["defence", "whose", "clean", "FGSM 2", "FGSM 8"],
    [["none", "ours", "90.0 [79, 96]", "26.0 [16, 40]", "4.0 [1, 13]"], ["", "paper", "92", "39", "20"]],
    key=2,
)


@pytest.mark.parametrize("width", [20, 40, 50, 60, 200])
def test_pieces_hold_every_column_once_beside_the_key(width: int) -> None:
    pieces = list(GRID.pieces(width))
    assert all(piece.headings[:2] == GRID.headings[:2] for piece in pieces)
    assert [heading for piece in pieces for heading in piece.headings[2:]] == GRID.headings[2:]
    for row, line in enumerate(GRID.lines):
        assert [cell for piece in pieces for cell in piece.lines[row][2:]] == line[2:]
    assert len(pieces) == {20: 3, 40: 3, 50: 2, 60: 2, 200: 1}[width]


def test_a_table_without_other_columns_is_one_piece() -> None:
    grid = Grid("Names", ["name"], [["a"]])
    assert [piece.lines for piece in grid.pieces(80)] == [[["a"]]]
