"""What commands put on the terminal."""

import pytest

from comdefend import terminal


@pytest.mark.parametrize(("quiet", "said"), [(False, "counting sheep: 3/4, 0 s"), (True, "")])
def test_work_without_a_terminal_says_where_it_is_unless_it_shall_be_quiet(
    quiet: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    with terminal.bar("counting", quiet) as move:
        move(1, 4, "sheep")
        move(3, 4, "sheep")
    shown = capsys.readouterr()
    assert said in shown.err
    assert not (quiet and shown.err)
    assert not shown.out


def test_a_message_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.failed("'net.py:smile:' is [no] :factory:", 2)
    assert "'net.py:smile:' is [no] :factory:" in capsys.readouterr().err
