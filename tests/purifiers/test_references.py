"""Purifiers by reference and by composition."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from comdefend import defend, load
from comdefend.attacks.adaptive import gradient_modes, through
from comdefend.errors import RequestError
from comdefend.purifiers import Chain, ComDefendPurifier, Identity, as_purifier, is_ours
from tests.conftest import tiny_model


def test_a_name_with_options_reaches_the_constructor() -> None:
    purifier = load("comdefend:weights=cifar10,tile=64,halo=4,order=bgr,noise=1.5")
    assert isinstance(purifier, ComDefendPurifier)
    assert (purifier.tile, purifier.halo, purifier.order, purifier.noise) == (64, 4, "bgr", 1.5)


def test_none_gives_back_what_it_got() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(load("none")(images), images)


def test_plus_composes_in_order() -> None:
    chain = load("none+comdefend")
    assert isinstance(chain, Chain)
    assert [type(p) for p in chain.purifiers] == [Identity, ComDefendPurifier]


def test_dtype_reaches_every_part_and_yields_to_the_reference() -> None:
    chain = load("comdefend:tile=32+none+comdefend:dtype=float32", dtype="bfloat16")
    assert isinstance(chain, Chain)
    kinds = [p.dtype for p in chain.purifiers if isinstance(p, ComDefendPurifier)]
    assert kinds == [torch.bfloat16, torch.float32]


def test_a_plus_in_a_path_is_no_composition(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\+b/c\.safetensors'?: there is no such file"):
        load(f"comdefend:weights={tmp_path}/a+b/c.safetensors")


def test_a_chain_is_one_after_the_other_and_so_are_its_gradients() -> None:
    first, second = ComDefendPurifier(tiny_model()), ComDefendPurifier(tiny_model(), order="bgr")
    chain = Chain([first, second])
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert torch.equal(chain(images), second(first(images)))
    (ours,) = torch.autograd.grad(chain.surrogate(images).sum(), images)
    (plain,) = torch.autograd.grad(second.surrogate(first.surrogate(images)).sum(), images)
    torch.testing.assert_close(ours, plain)


def test_a_chain_is_stochastic_if_a_part_is() -> None:
    assert Chain([Identity(), ComDefendPurifier(tiny_model(), noise=1.0)]).stochastic
    assert not Chain([Identity(), ComDefendPurifier(tiny_model())]).stochastic


def test_a_chain_tries_what_lies_beside_the_modes_of_its_parts() -> None:
    chain = Chain([Identity(), ComDefendPurifier(tiny_model()), ComDefendPurifier(tiny_model())])
    assert chain.beside("tempered-10") == ("tempered-5", "tempered-20")
    assert chain.beside("identity") == ()


def test_defend_puts_the_purifier_first_and_changes_neither(tiny_classifier: nn.Module) -> None:
    purifier, images = ComDefendPurifier(tiny_model()), torch.rand(2, 3, 8, 8)
    before = tiny_classifier(images)
    defended = defend(tiny_classifier, purifier)
    assert torch.equal(defended(images), tiny_classifier(purifier(images)))
    assert torch.equal(tiny_classifier(images), before)


def test_defend_takes_references_and_refuses_what_is_none(tiny_classifier: nn.Module) -> None:
    images = torch.rand(1, 3, 32, 32)
    defended = defend("cifar10-resnet9-plain", "jpeg")
    assert torch.equal(defended.purifier(images), load("jpeg")(images))
    assert defended(images).shape == (1, 10)
    with pytest.raises(RequestError, match="purifier is a int; a reference, or a module or function from im"):
        defend(tiny_classifier, 3)  # type: ignore[arg-type]


def test_an_unknown_name_lists_weights_and_purifiers_alike() -> None:
    with pytest.raises(RequestError, match=r"did you mean jpeg.*cifar10-guided") as error:
        load("jpge")
    assert "feature-squeezing" in str(error.value)
    with pytest.raises(RequestError, match=r"'runs/mine/weights.safetensors': there is no such file"):
        load("runs/mine/weights.safetensors")
    with pytest.raises(RequestError, match=r"options of weights are given as comdefend:weights=cifar10,"):
        load("cifar10:tile=64")
    with pytest.raises(RequestError, match=r"write mine\.py:FACTORY"):
        load("mine.py")


def test_weights_suit_the_images_that_are_shown() -> None:
    assert load(like=torch.rand(1, 1, 28, 28)).image_channels == 1
    assert load("comdefend", like=torch.rand(1, 3, 8, 8)).image_channels == 3
    purifier = load("cifar10", tile=64, noise=1.5)
    assert isinstance(purifier, ComDefendPurifier)
    assert (purifier.tile, purifier.noise) == (64, 1.5)


class Halves(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / 2


@pytest.mark.parametrize("given", [Halves(), lambda images: images / 2])
def test_anything_from_images_to_images_is_a_purifier(given: Any, tiny_classifier: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    purifier = as_purifier(given)
    assert torch.equal(purifier(images), images / 2)
    for mode in ("autograd", "identity"):
        (found,) = torch.autograd.grad(through(purifier, images, mode).sum(), images)
        assert float(found.mean()) == (0.5 if mode == "autograd" else 1.0)
    assert torch.equal(defend(tiny_classifier, given)(images), tiny_classifier(images / 2))
    assert not purifier.stochastic
    assert not is_ours(purifier)


def test_a_module_says_of_itself_what_a_purifier_would() -> None:
    class Rounded(Halves):
        stochastic = True
        gradient_modes = ("surrogate",)

        def surrogate(self, images: torch.Tensor) -> torch.Tensor:
            return 3 * images

    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    purifier = as_purifier(Rounded())
    assert purifier.stochastic
    assert gradient_modes(purifier) == ("surrogate", "autograd", "identity", "spsa")
    (found,) = torch.autograd.grad(purifier.through(images, "surrogate").sum(), images)
    assert torch.equal(found, torch.full_like(images, 3))


def test_someone_elses_purifier_is_a_factory_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from comdefend import Purifier\n"
        "class Half(Purifier):\n"
        "    def purify(self, images):\n"
        "        return images / 2\n"
        "def make():\n"
        "    return Half()\n"
        "def wrong():\n"
        "    return 3\n"
    )
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(load(f"{tmp_path}/mine.py:make")(images), images / 2)
    with pytest.raises(RequestError, match="returned a int"):
        load(f"{tmp_path}/mine.py:wrong")
    with pytest.raises(RequestError, match="no function 'gone'"):
        load(f"{tmp_path}/mine.py:gone")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("comdefnd", "did you mean comdefend"),
        ("comdefend:weights", "must have the form key=value"),
        ("comdefend:colour=red", "colour"),
        ("comdefend:weights=nothing", "no weights named 'nothing'"),
        ("comdefend:dtype=int8", "dtype is 'int8'"),
        ("comdefend:noise=abc", "noise is 'abc'; it must be a number"),
        ("pixeldefend:epsilon=abc", "epsilon is 'abc'"),
        ("jpeg:dtype=float32", "no option 'dtype'"),
        ("jpeg:qualty=75", "no option 'qualty'; it takes quality"),
        ("comdefend:tiel=64", "it takes weights, dtype, tile, halo, order, noise"),
        ("none:data=cifar10", "no option 'data'"),
        ("comdefend:channels=3", "no option 'channels'"),
        ("comdefend:weights=cifar10+comdefend:weights=mnist", "of 1 and 3 channels cannot follow"),
        ("comdefend:tile=1e2", "tile is 100.0; it must be a whole number"),
        ("nowhere.py:make", "there is no file"),
    ],
)
def test_unknown_references_say_what_is_wrong(reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(reference)


def test_the_name_of_shipped_weights_is_their_purifier() -> None:
    images = torch.rand(1, 3, 8, 8)

    def purified(reference: str, at: torch.Tensor = images) -> torch.Tensor:
        found: torch.Tensor = load(reference)(at)
        return found

    wanted = purified("comdefend:weights=cifar10-guided")
    assert torch.equal(purified("cifar10-guided"), wanted)
    assert torch.equal(purified("jpeg+cifar10-guided"), purified("cifar10-guided", purified("jpeg")))
