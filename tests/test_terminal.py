"""What commands put on the terminal."""

import pytest

from comdefend import terminal


def test_work_without_a_terminal_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    with terminal.bar("counting", False) as move:
        move(1, 4, "sheep")
        move(3, 4, "sheep")
    assert "counting sheep: 3/4, 0 s" in capsys.readouterr().err


def test_work_that_shall_be_quiet_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    with terminal.bar("counting", True) as move:
        move(1, 4, "sheep")
    assert capsys.readouterr() == ("", "")
