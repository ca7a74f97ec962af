"""Somebody else's classifier, held to what a classifier here does."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comdefend.classifiers import Foreign, check_classifier, load_classifier
from comdefend.errors import RequestError, WorkError
from comdefend.seeding import random_state_kept

IMAGES, LABELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4])


class Their(nn.Module):
    """A linear classifier whose answer goes through a function of logits and images."""

    def __init__(self, change: Callable[[Tensor, Tensor], Any] = lambda logits, _: logits) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.layer(images.flatten(1)), images)


def test_it_answers_as_its_network_does_and_passes_gradients() -> None:
    network = Their()
    images = IMAGES.clone().requires_grad_()
    found = Foreign(network, name="it")(images)
    assert torch.equal(found, network(IMAGES))
    found.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad[0].flatten(), network.layer.weight.sum(0))
    caught: list[Tensor] = []
    network.layer.register_forward_hook(lambda _, __, out: caught.append(out))
    assert Foreign(network, name="it")(IMAGES) is caught[0]


def test_what_it_does_to_its_images_is_not_done_to_ours() -> None:
    def normalised(_: Tensor, images: Tensor) -> Tensor:
        return images.sub_(0.5).div_(0.25).flatten(1)[:, :5]

    ours = IMAGES.clone()
    foreign = Foreign(Their(normalised), name="it")
    assert check_classifier(foreign, ours, LABELS, name="it") == 5
    assert torch.equal(ours, IMAGES)
    images = IMAGES.clone().requires_grad_()
    foreign(images).sum().backward()
    assert images.grad is not None
    assert images.grad.unique().tolist() == [0.0, 4.0]


def test_what_it_prints_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def talkative(logits: Tensor, images: Tensor) -> Tensor:
        print("seen", len(images))
        return logits

    Foreign(Their(talkative), name="it")(IMAGES)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "seen 4\n")


def test_a_record_with_logits_counts_as_them() -> None:
    foreign = Foreign(Their(lambda logits, _: SimpleNamespace(logits=logits)), name="it")
    assert foreign(IMAGES).shape == (4, 5)


def fails(error: BaseException) -> Callable[[Tensor, Tensor], Any]:
    def change(*_: Tensor) -> Any:
        raise error

    return change


TORCHSCRIPT = (
    "The following operation failed.\nTraceback (most recent call last):\n  code\nRuntimeError: why\n"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, _: logits[0], r"returned \(5,\) of torch.float32 for a batch of 4; float logits"),
        (lambda logits, _: logits[:2], r"'it' returned \(2, 5\)"),
        (lambda logits, _: logits.argmax(1, keepdim=True), r"'it' returned \(4, 1\) of torch.int64"),
        (lambda logits, _: [logits], "'it' returned a list"),
        (fails(KeyError("x")), "'it' does not take images of 3x8x8 in a batch of 4: KeyError: 'x'$"),
        (fails(SystemExit(3)), "in a batch of 4: SystemExit: 3$"),
        (fails(ValueError("one\ntwo")), "in a batch of 4: ValueError: one$"),
        (fails(RuntimeError(TORCHSCRIPT)), "in a batch of 4: RuntimeError: why$"),
    ],
)  # fmt: skip
def test_what_it_does_wrong_is_one_sentence(change: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(WorkError, match=message):
        Foreign(Their(change), name="it")(IMAGES)


def test_its_classes_stay_as_many_as_they_were() -> None:
    foreign = Foreign(Their(lambda logits, images: logits[:, : 1 + len(images)]), name="it")
    foreign(IMAGES)
    with pytest.raises(WorkError, match="'it' returned 3 logits for an image, and before 5"):
        foreign(IMAGES[:2])


def random(logits: Tensor, _: Tensor) -> Tensor:
    return logits + 0.1 * torch.randn_like(logits)


def random_from_the_same_numbers(logits: Tensor, _: Tensor) -> Tensor:
    """As a network that is made to leave random numbers as they were."""
    with random_state_kept():
        return nn.functional.dropout(logits, 0.5)


def beside_others(logits: Tensor, _: Tensor) -> Tensor:
    return logits - logits.mean(0) if len(logits) > 1 else logits


def sorted_by_batch(logits: Tensor, _: Tensor) -> Tensor:
    return logits * len(logits)


BUFFER = torch.zeros(4, 5)


def into_a_buffer(logits: Tensor, images: Tensor) -> Tensor:
    return BUFFER[: len(images)].copy_(logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (random, "'it' is random"),
        (random_from_the_same_numbers, "'it' is random"),
        (beside_others, "'it' gives an image other logits alone than in a batch"),
        (sorted_by_batch, "'it' gives an image other logits alone than in a batch"),
        (into_a_buffer, "'it' overwrites the logits"),
        (lambda logits, _: logits.softmax(1), "'it' returns probabilities"),
        (lambda logits, _: logits.sigmoid(), r"'it' returns values in \[0, 1\] alone, as after a sigmoid"),
    ],
)
def test_answers_that_mean_nothing_are_refused_before_any_work(
    change: Callable[[Tensor, Tensor], Any], message: str
) -> None:
    for classifier in (Their(change), Foreign(Their(change), name="it")):
        with pytest.raises(RequestError, match=message):
            check_classifier(classifier, IMAGES[:2], LABELS, name="it")


def test_logits_that_only_happen_to_lie_in_0_1_are_logits() -> None:
    means = Their(lambda _, images: images.mean((2, 3)).repeat(1, 2)[:, :5])
    assert check_classifier(means, IMAGES[:2], LABELS, name="it") == 5


def test_a_single_image_is_enough_to_see_that_others_count() -> None:
    with pytest.raises(RequestError, match="alone than in a batch"):
        check_classifier(Their(beside_others), IMAGES[:1], LABELS, name="it")


def test_batch_normalization_of_the_batch_is_refused_and_that_of_training_is_not() -> None:
    def network(track: bool) -> nn.Module:
        normalization = nn.BatchNorm2d(3, track_running_stats=track)
        return nn.Sequential(normalization, Their()).eval()

    assert check_classifier(network(track=True), IMAGES[:2], LABELS, name="it") == 5
    with pytest.raises(RequestError, match="alone than in a batch"):
        check_classifier(network(track=False), IMAGES[:2], LABELS, name="it")


def test_a_network_that_fails_on_an_image_alone_has_failed_at_work() -> None:
    for change in (
        lambda logits, _: logits.squeeze(0),
        lambda logits, _: logits if len(logits) > 1 else 1 / 0,
    ):
        with pytest.raises(WorkError, match=r"classifier 'it' .*batch of 1"):
            check_classifier(Their(change), IMAGES[:2], LABELS, name="it")


def test_its_parts_are_those_of_its_network() -> None:
    network = Their()
    foreign = Foreign(network, name="it")
    assert network.layer in foreign.modules()
    assert list(foreign.state_dict()) == ["network.layer.weight", "network.layer.bias"]
    assert not any(p.requires_grad for p in copy.deepcopy(foreign).requires_grad_(False).parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_network_is_frozen_and_copied_as_any_other(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), IMAGES), tmp_path / "t.pt")
    (tmp_path / "net.py").write_text(
        f"import torch\ndef make(): return torch.jit.load({str(tmp_path / 't.pt')!r})\n"
    )
    classifier = load_classifier(f"{tmp_path}/net.py:make")
    assert not any(p.requires_grad for p in classifier.requires_grad_(False).parameters())
    assert check_classifier(copy.deepcopy(classifier), IMAGES[:2], LABELS, name="it") == 5
    with pytest.raises(
        WorkError, match=r"net.py:make' does not take images of 3x9x9 in a batch of 1: RuntimeError: "
    ):
        classifier(torch.rand(1, 3, 9, 9))


def test_a_factorys_classifier_is_held_to_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def forward(self, images): return images.sub_(1).flatten(1)\ndef make(): return Net()\n"
    )
    classifier, images = load_classifier(f"{tmp_path}/net.py:make"), IMAGES.clone()
    classifier(images)
    assert isinstance(classifier, Foreign)
    assert not classifier.training
    assert torch.equal(images, IMAGES)
