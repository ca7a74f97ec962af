"""Purifiers by reference and by composition."""

from pathlib import Path

import pytest
import torch
from torch import nn

from comdefend import defend, load, load_purifier
from comdefend.errors import RequestError
from comdefend.purifiers import Chain, ComDefendPurifier, Identity
from tests.conftest import tiny_model


def test_a_name_with_options_reaches_the_constructor() -> None:
    purifier = load_purifier("comdefend:weights=cifar10,tile=64,halo=4,order=bgr,noise=1.5")
    assert isinstance(purifier, ComDefendPurifier)
    assert (purifier.tile, purifier.halo, purifier.order, purifier.noise) == (64, 4, "bgr", 1.5)


def test_none_gives_back_what_it_got() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(load_purifier("none")(images), images)


def test_plus_composes_in_order() -> None:
    chain = load_purifier("none+comdefend")
    assert isinstance(chain, Chain)
    assert [type(p) for p in chain.purifiers] == [Identity, ComDefendPurifier]


def test_dtype_reaches_every_part_and_yields_to_the_reference() -> None:
    chain = load_purifier("comdefend:tile=32+none+comdefend:dtype=float32", dtype="bfloat16")
    assert isinstance(chain, Chain)
    kinds = [p.dtype for p in chain.purifiers if isinstance(p, ComDefendPurifier)]
    assert kinds == [torch.bfloat16, torch.float32]


def test_a_plus_in_a_path_is_no_composition(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\+b/c\.safetensors'?: there is no such file"):
        load_purifier(f"comdefend:weights={tmp_path}/a+b/c.safetensors")


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
    assert torch.equal(defended.purifier(images), load_purifier("jpeg")(images))
    assert defended(images).shape == (1, 10)
    with pytest.raises(RequestError, match=r"purifier is a function; a torch\.nn\.Module or a reference"):
        defend(tiny_classifier, lambda images: images)  # type: ignore[arg-type]


def test_names_of_weights_and_of_purifiers_are_told_apart() -> None:
    with pytest.raises(RequestError, match=r"weights 'runs/mine/weights.safetensors': there is no such file"):
        load_purifier("runs/mine/weights.safetensors")
    with pytest.raises(RequestError, match="a purifier's reference, for load_purifier; here weights"):
        load("comdefend")


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
    assert torch.equal(load_purifier(f"{tmp_path}/mine.py:make")(images), images / 2)
    with pytest.raises(RequestError, match="returned a int"):
        load_purifier(f"{tmp_path}/mine.py:wrong")
    with pytest.raises(RequestError, match="no function 'gone'"):
        load_purifier(f"{tmp_path}/mine.py:gone")


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
        load_purifier(reference)


def test_the_name_of_shipped_weights_is_their_purifier() -> None:
    images = torch.rand(1, 3, 8, 8)

    def purified(reference: str, at: torch.Tensor = images) -> torch.Tensor:
        found: torch.Tensor = load_purifier(reference)(at)
        return found

    wanted = purified("comdefend:weights=cifar10-guided")
    assert torch.equal(purified("cifar10-guided"), wanted)
    assert torch.equal(purified("jpeg+cifar10-guided"), purified("cifar10-guided", purified("jpeg")))
