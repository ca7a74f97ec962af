"""What is finished is not run again, and an interruption of a long attack loses one batch."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import FGSM, PGD, Attack, Goal
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.evaluation import Report, Result, Store, evaluate, write_results
from comdefend.evaluation.report import write_report
from comdefend.evaluation.results import Check, read_checks, write_checks
from comdefend.evaluation.store import (
    BATCHES,
    CHECKS,
    FINISHED,
    MIN_SECONDS,
    RESULTS,
    Batches,
    Made,
    digest,
    identity,
    key_of,
)
from comdefend.purifiers import JPEG, Identity, as_purifier
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
    monkeypatch.setattr("comdefend.evaluation.store.MIN_SECONDS", 0.0)
    return found


def run(
    sample: ImageSet,
    folder: Path | None,
    *,
    stop_at: int | None = None,
    examples: int = 8,
    epsilons: Sequence[float] = (8 / 255,),
) -> Report:
    """Ten images in batches of three, interrupted before batch number `stop_at` of attacked ones."""
    patch = pytest.MonkeyPatch()
    if stop_at is not None:
        plain = PGD.run
        made: list[int] = []

        def stopping(*given: object) -> Tensor:
            if len(made) == stop_at:
                raise KeyboardInterrupt
            made.append(1)
            return plain(*given)  # type: ignore[arg-type]

        patch.setattr(PGD, "run", stopping)
    with patch.context():
        try:
            return evaluate(
                TinyClassifier(classes=10).eval(), "gaussian", data=sample, attacks=["pgd"],
                protocol=["fixed"], limit=10, batch=3, store=Store(folder), examples=examples,
                epsilons=epsilons,
            )  # fmt: skip
        finally:
            patch.undo()


def test_an_attack_goes_on_with_the_batch_that_was_interrupted(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    whole = run(sample, None)
    attacked.clear()
    with pytest.raises(KeyboardInterrupt):
        run(sample, tmp_path, stop_at=2)
    assert attacked == [3, 3]
    assert len(list((tmp_path / BATCHES).iterdir())) == 2
    again = run(sample, tmp_path)
    assert attacked == [3, 3, 3, 1]
    same = [[replace(r, seconds=0.0) for r in report.results] for report in (whole, again)]
    assert same[0] == same[1]
    for one, other in zip(whole.examples, again.examples, strict=True):
        assert torch.equal(one.adversarial, other.adversarial)


def test_pictures_of_what_was_finished_come_from_the_first_batch(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    budgets = (16 / 255, 1 / 255)
    whole = run(sample, None, epsilons=budgets)
    with pytest.raises(KeyboardInterrupt):  # in the second attack; the first breaks more, and is done
        run(sample, tmp_path, stop_at=5, epsilons=budgets)
    assert len(list((tmp_path / BATCHES).iterdir())) == 2  # one of each
    attacked.clear()
    again = run(sample, tmp_path, epsilons=budgets)
    assert attacked == [3, 3, 1]
    ((one,), (other,)) = whole.examples, again.examples
    assert "16/255" in one.title
    assert one.title == other.title
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.predictions["gaussian"], other.predictions["gaussian"])


def test_without_what_was_kept_pictures_are_of_a_few_images_attacked_again(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    run(sample, tmp_path, examples=0)
    assert not (tmp_path / BATCHES).exists()  # what no picture needs is not kept
    attacked.clear()
    (example,) = run(sample, tmp_path, examples=1).examples
    assert attacked == [3]
    assert len(example.adversarial) == 1


def test_what_is_damaged_or_of_another_attack_is_made_again(
    sample: ImageSet, tmp_path: Path, attacked: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(sample, tmp_path, stop_at=3)
    first, second, third = sorted((tmp_path / BATCHES).iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    second.rename(tmp_path / BATCHES / f"{'0' * 16}-3.safetensors")
    third.write_bytes(b"")
    attacked.clear()
    run(sample, tmp_path)
    assert attacked == [3, 3, 3, 1]


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    batches, images = Batches(tmp_path, "a"), torch.rand(2, 3, 4, 4)
    batches.keep(0, Made(images, MIN_SECONDS, ("the gradients are zero",)))
    batches.keep(2, Made(images, MIN_SECONDS / 2))  # made anew in no time
    found = batches.made(0, torch.zeros(2, 3, 4, 4))
    assert found is not None
    assert torch.equal(found.images, images)
    assert (found.seconds, found.flags) == (MIN_SECONDS, ("the gradients are zero",))
    assert batches.made(2, images) is None
    assert Batches(tmp_path, "b").made(0, images) is None
    assert batches.made(0, images[:1]) is None


def test_an_evaluation_that_begins_anew_or_is_done_leaves_none(sample: ImageSet, tmp_path: Path) -> None:
    report = run(sample, None)
    made = Made(torch.rand(1, 3, 4, 4), MIN_SECONDS)
    batches = Batches(tmp_path / BATCHES, "0123456789abcdef")
    batches.keep(0, made)
    write_report(report, tmp_path, store=Store(tmp_path))
    assert not batches.folder.exists()
    batches.keep(0, made)
    with pytest.raises(RequestError, match="--resume goes on"):
        Store.of_folder(tmp_path, resume=False, overwrite=False)
    with pytest.raises(RequestError, match="give one of them"):
        Store.of_folder(tmp_path, resume=True, overwrite=True)
    assert len(Store.of_folder(tmp_path, resume=True, overwrite=False)) == len(report.results)
    assert batches.folder.exists()
    (somebodys := batches.folder / "weights.safetensors").touch()
    anew = Store.of_folder(tmp_path, resume=False, overwrite=True)
    assert len(anew) == 0
    assert len(list(batches.folder.iterdir())) == 2  # until there is something new
    anew.keep(report.results)
    assert list(batches.folder.iterdir()) == [somebodys]
    assert (tmp_path / RESULTS).exists()  # of the evaluation that is there until it is replaced


def test_records_come_back_and_of_several_that_are_alike_the_newest(tmp_path: Path) -> None:
    old, new = (Check("it", "one", "pass", figure, "", fingerprint="1") for figure in ("old", "new"))
    before, after = (Result("d", "c", "none", "none", n, n, fingerprint="2") for n in (1, 2))
    write_checks(tmp_path / CHECKS, [old])
    write_results(tmp_path / RESULTS, [before])
    store = Store(tmp_path)
    assert (store.result("2"), store.checks("1")) == (before, [old])
    store.keep([after, new])
    again = Store(tmp_path)
    assert (again.result("2"), again.checks("1")) == (after, [new])
    with (tmp_path / FINISHED).open("a") as file:
        file.write('{"result": {"data"')  # an interruption in the middle of a line
    assert Store(tmp_path).result("2") == after


def test_checks_that_were_left_out_are_not_lost(tmp_path: Path) -> None:
    line = Check("it", "one", "pass", "fine", "", fingerprint="1")
    result = Result("d", "c", "none", "none", 1, 1, software={"torch": "2"}, hardware={"cores": 1})
    write_checks(tmp_path / CHECKS, [line])
    write_report(Report([result]), tmp_path, store=Store(tmp_path))
    assert not (tmp_path / CHECKS).exists()
    assert Store(tmp_path).checks("1") == [line]
    write_report(Report([result], [line]), tmp_path, store=Store(tmp_path))
    assert read_checks(tmp_path / CHECKS) == [line]
    assert not (tmp_path / FINISHED).exists()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"n": "ten"}, "n|incomplete"),
        ({"correct": [1]}, "correct|incomplete"),
        ({"threat_model": {"norm": "l7", "epsilon": 0.1}}, "threat_model.norm"),
        ({"interval": [0.1]}, "interval"),
        ({"right": "zz"}, "right"),
        ({"n": 3}, "right"),
        ({"correct": 11}, "correct"),
        ({"settings": 3}, "settings"),
    ],
)
def test_a_file_with_a_wrong_field_is_refused_by_the_fields_name(
    change: dict[str, object], where: str, tmp_path: Path
) -> None:
    good: dict[str, object] = {"n": 10, "correct": 9, "attack": "none", "right": "ff8"}
    provenance = {"data": "d"}
    subject = {"classifier": "c", "defence": "none"}

    def written(record: dict[str, object]) -> None:
        file = {
            "format": 2, "provenance": [provenance], "subjects": [subject],
            "results": [{"made": 0, "of": 0, **record}],
        }  # fmt: skip
        (tmp_path / RESULTS).write_text(json.dumps(file))

    written(good)
    Store(tmp_path)
    written({**good, **change})
    with pytest.raises(RequestError, match=rf"results\.json' is no file of results: .*({where})"):
        Store(tmp_path)
    (tmp_path / RESULTS).unlink()
    (tmp_path / FINISHED).write_text(
        json.dumps({"result": {**provenance, **subject, **good, **change}}) + "\n"
    )
    with pytest.raises(RequestError, match=rf"finished\.jsonl' .*({where})"):
        Store(tmp_path)


@pytest.mark.parametrize("content", ["[", "nonsense", '{"other": 1}', "[1, 2]"])
def test_lines_that_are_no_records_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / FINISHED).write_text(content + "\n")
    with pytest.raises(RequestError, match=r"finished\.jsonl', line 1, is no record"):
        Store(tmp_path)


def test_a_digest_is_that_of_the_weights_and_buffers() -> None:
    network = TinyClassifier()
    found = {digest(network)}
    assert digest(TinyClassifier()) in found
    network.register_forward_hook(lambda *_: None, always_call=True)  # as while it is judged
    assert digest(network) in found
    mask = torch.ones(2)
    network.register_buffer("mask", mask, persistent=False)
    found.add(digest(network))
    mask[0] = 0
    found.add(digest(network))
    with torch.no_grad():
        network.weights[0, 0] += 1
    found.add(digest(network))
    assert len(found) == 4


def test_what_no_hash_of_the_parts_sees_is_seen_in_the_answers() -> None:
    class Scaling(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factors = np.array([factor])

        def forward(self, images: Tensor) -> Tensor:
            return images - float(self.factors[0])

    images = torch.rand(2, 3, 4, 4)
    one, same, other = Scaling(0.1), Scaling(0.1), Scaling(0.2)
    assert digest(one) == digest(other)
    assert identity(one, images) == identity(same, images) != identity(other, images)


def test_a_purifier_is_told_by_its_settings_and_a_function_by_its_file() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert identity(JPEG(quality=70), images) != identity(JPEG(quality=75), images)
    here = as_purifier(lambda at: at)
    assert digest(here) != digest(Identity())


def test_a_key_depends_on_every_value_and_on_no_order() -> None:
    one = key_of({"a": 1, "b": [1, 2]})
    assert key_of({"b": [1, 2], "a": 1}) == one
    assert len({one, key_of({"a": 2, "b": [1, 2]}), key_of({"a": 1, "b": [2, 1]})}) == 3
