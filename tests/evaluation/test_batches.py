"""Adversarial images of a long attack: kept batch by batch, so that an interruption loses one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import FGSM, PGD, Attack, Goal
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.evaluation import Report, Result, evaluate
from comdefend.evaluation.batches import WORTH, Batches, Made
from comdefend.evaluation.report import BATCHES, earlier, write_report
from tests.conftest import TinyClassifier


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each batch had that was attacked; every batch is worth keeping."""
    found: list[int] = []

    def count(attack: type[FGSM] | type[PGD]) -> None:
        run: Callable[..., Tensor] = attack.run

        def counted(
            self: Attack, model: nn.Module, images: Tensor, goal: Goal, epsilon: float | None
        ) -> Tensor:
            found.append(len(images))
            return run(self, model, images, goal, epsilon)

        monkeypatch.setattr(attack, "run", counted)

    count(FGSM)
    count(PGD)
    monkeypatch.setattr("comdefend.evaluation.batches.WORTH", 0.0)
    return found


def run(
    sample: ImageSet,
    batches: Path | None,
    *,
    stop_at: int | None = None,
    known: Sequence[Result] = (),
    keep: Callable[[Sequence[Result]], None] | None = None,
    examples: int = 8,
    epsilons: Sequence[float] = (8 / 255,),
) -> Report:
    """Ten images in batches of three, interrupted when so many steps are done."""

    def progress(done: int, _: int, __: str) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    return evaluate(
        TinyClassifier(classes=10).eval(), "gaussian", data=sample, attacks=["pgd"],
        protocols=["fixed"], limit=10, batch=3, batches=batches, progress=progress, known=known, keep=keep,
        examples=examples, epsilons=epsilons,
    )  # fmt: skip


def test_an_attack_goes_on_with_the_batch_that_was_interrupted(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    whole = run(sample, None)
    attacked.clear()
    folder = tmp_path / "batches"
    with pytest.raises(KeyboardInterrupt):
        run(sample, folder, stop_at=6)  # four batches of clean images, two of attacked ones
    assert attacked == [3, 3]
    assert len(list(folder.iterdir())) == 2
    again = run(sample, folder)
    assert attacked == [3, 3, 3, 1]
    assert not folder.exists()
    same = [[replace(r, seconds=0.0) for r in report.results] for report in (whole, again)]
    assert same[0] == same[1]
    for one, other in zip(whole.examples, again.examples, strict=True):
        assert torch.equal(one.adversarial, other.adversarial)


def test_pictures_of_what_was_known_come_from_the_first_batch(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    budgets, folder = (16 / 255, 1 / 255), tmp_path / "batches"
    whole = run(sample, None, epsilons=budgets)
    made: list[list[Result]] = []
    with pytest.raises(KeyboardInterrupt):  # in the second attack; the first breaks more, and is done
        run(sample, folder, stop_at=9, keep=lambda results: made.append(list(results)), epsilons=budgets)
    assert len(list(folder.iterdir())) == 2  # one of each
    attacked.clear()
    again = run(sample, folder, known=made[-1], epsilons=budgets)
    assert attacked == [3, 3, 1]
    assert not folder.exists()
    ((one,), (other,)) = whole.examples, again.examples
    assert "16/255" in one.title
    assert one.title == other.title
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.predictions["gaussian"], other.predictions["gaussian"])


def test_what_two_attackers_make_alike_is_kept_once_for_the_pictures_of_both(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    made: list[list[Result]] = []

    def run(stop_at: str, known: Sequence[Result]) -> Report:
        def progress(_: int, __: int, text: str) -> None:
            if text.startswith(stop_at):
                raise KeyboardInterrupt

        return evaluate(
            TinyClassifier(classes=10).eval(), "none", data=sample, attacks=["fgsm", "square:queries=2"],
            knowledge=["gray-box", "white-box", "black-box"], protocols=["fixed"], epsilons=[8 / 255],
            limit=10, batch=3, checks=False, batches=tmp_path / "batches", known=known, progress=progress,
            keep=lambda results: made.append(list(results)),
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run("black-box", [])
    assert attacked == [3, 3, 3, 1]  # for the gray-box attacker, and for the white-box one, too
    attacked.clear()
    gray, white, _ = run("never", made[-1]).examples
    assert attacked == []
    assert (gray.title[:8], white.title[:9]) == ("gray-box", "white-box")
    assert gray.adversarial.equal(white.adversarial)


def test_without_what_was_kept_pictures_are_of_a_few_images_attacked_again(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    whole = run(sample, None, examples=0)
    attacked.clear()
    (example,) = run(sample, tmp_path, known=whole.results, examples=1).examples
    assert attacked == [3]
    assert len(example.adversarial) == 1


def test_what_no_picture_needs_is_not_kept(sample: ImageSet, tmp_path: Path, attacked: list[int]) -> None:
    folder = tmp_path / "batches"
    with pytest.raises(KeyboardInterrupt):
        run(sample, folder, stop_at=8, examples=0, epsilons=(16 / 255, 1 / 255))
    assert attacked == [3, 3, 3, 1]
    assert not folder.exists()


def test_what_is_damaged_or_of_another_attack_is_made_again(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(sample, tmp_path, stop_at=7)
    first, second, third = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    second.rename(tmp_path / f"{'0' * 16}-3.safetensors")
    third.write_bytes(b"")
    attacked.clear()
    run(sample, tmp_path)
    assert attacked == [3, 3, 3, 1]
    assert len(list(tmp_path.iterdir())) == 1  # the other's, which stays until a report is written


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    batches, images = Batches(tmp_path, "a"), torch.rand(2, 3, 4, 4)
    batches.keep(0, Made(images, WORTH, ("the gradients are zero",)))
    batches.keep(2, Made(images, WORTH / 2))  # made anew in no time
    found = batches.made(0, torch.zeros(2, 3, 4, 4))
    assert found is not None
    assert torch.equal(found.images, images)
    assert (found.seconds, found.flags) == (WORTH, ("the gradients are zero",))
    assert batches.made(2, images) is None
    assert Batches(tmp_path, "b").made(0, images) is None
    assert batches.made(0, images[:1]) is None


def test_an_evaluation_that_begins_anew_or_is_done_leaves_none(sample: ImageSet, tmp_path: Path) -> None:
    report = run(sample, None)
    made = Made(torch.rand(1, 3, 4, 4), WORTH)
    batches = Batches(tmp_path / BATCHES, "0123456789abcdef")
    batches.keep(0, made)
    write_report(report, tmp_path)
    assert not batches.folder.exists()
    batches.keep(0, made)
    with pytest.raises(RequestError, match="--resume goes on"):
        earlier(tmp_path, resume=False, overwrite=False)
    earlier(tmp_path, resume=True, overwrite=False)
    assert batches.folder.exists()
    (somebodys := batches.folder / "weights.safetensors").touch()
    earlier(tmp_path, resume=False, overwrite=True)
    assert list(batches.folder.iterdir()) == [somebodys]
