"""Weights and their facts: written, read, refused, and the shipped ones as good as they say."""

import json
import re
import resource
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.data import load_data
from comdefend.errors import RequestError
from comdefend.evaluation import evaluate, wilson
from comdefend.evaluation.worst_case import WORST
from comdefend.image import psnr
from comdefend.model import ComDefend, ComDefendConfig
from comdefend.purifiers import load_comdefend
from comdefend.purifiers.hgd import load_hgd
from comdefend.purifiers.pixeldefend import load_pixeldefend
from comdefend.training import load_recipe
from tests.conftest import tiny_model


def write_tiny(path: Path, *, half: bool = False) -> zoo.Facts:
    model = tiny_model()
    model.com.fold_gain()
    known = zoo.Facts(
        name="tiny", kind="purifier", architecture=asdict(model.config), data="none", made="a test"
    )
    return zoo.write(model, known, path, half=half)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    known = write_tiny(tmp_path / "tiny.safetensors")
    facts, tensors = zoo.read(str(tmp_path / "tiny.safetensors"), kind="purifier")
    model = ComDefend(ComDefendConfig(**facts.architecture))
    zoo.fill(model, tensors, name="tiny")
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(model(images), tiny_model()(images))
    assert facts.name == known.name
    assert json.loads((tmp_path / "tiny.json").read_text())["sha256"] == known.sha256


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    write_tiny(tmp_path / "whole.safetensors")
    write_tiny(tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < sizes[0]
    _, tensors = zoo.read(str(tmp_path / "half.safetensors"), kind="purifier")
    assert all(t.dtype == torch.float32 for t in tensors.values())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="did you mean cifar10"):
        zoo.read("cifar1", kind="purifier")


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.safetensors")
    with pytest.raises(RequestError, match="belong to a purifier; a classifier is needed"):
        zoo.read(str(tmp_path / "tiny.safetensors"), kind="classifier")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x80\x04 not safetensors")
    with pytest.raises(RequestError, match="no readable safetensors file"):
        zoo.read(str(garbage), kind="purifier")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RequestError, match="not written by comdefend"):
        zoo.read(str(tmp_path / "foreign.safetensors"), kind="purifier")
    with pytest.raises(RequestError, match="there is no such file"):
        zoo.read(str(tmp_path / "gone.safetensors"), kind="purifier")


@pytest.mark.parametrize("value", [torch.full((3,), float("nan")), torch.ones(3, dtype=torch.int8)])
def test_weights_that_are_no_finite_floats_are_refused(value: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    write_tiny(path)
    with safe_open(path, framework="pt") as opened:
        header = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    tensors["rec.layers.4.bias"] = value
    save_file(tensors, path, metadata=header)
    with pytest.raises(RequestError, match=r"rec\.layers\.4\.bias does not hold finite floats"):
        zoo.read(str(path), kind="purifier")


@pytest.mark.parametrize(
    "facts",
    [
        "{", "null", "[]", "{}", '{"name": 1, "extra": 2}',
        '{"name": "a", "kind": "purifier", "data": "", "made": "", "architecture": {"bits": 99}}',
        '{"name": "a", "kind": "purifier", "data": "", "made": "", "architecture": {"bits": "x"}}',
        '{"name": "a", "kind": "purifier", "data": "", "made": "", "architecture": {"com_widths": [200000]}}',
        '{"name": "a", "kind": "purifier", "data": "", "made": "", "architecture": null}',
    ],
)  # fmt: skip
def test_tampered_facts_are_refused(facts: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"comdefend": facts})
    with pytest.raises(RequestError, match=r"a\.safetensors"):
        load_comdefend(str(tmp_path / "a.safetensors"))


LOADERS: dict[str, Callable[[str], object]] = {
    "cifar10": load_comdefend, "cifar10-resnet9": load_classifier, "cifar10-pixelcnn": load_pixeldefend,
    "cifar10-hgd": load_hgd,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar10", {"com_widths": [1024] * 8}),
        ("cifar10", {"com_widths": [16] * 1_000_000}),
        ("cifar10", {"bits": 8}),
        ("cifar10-resnet9", {"widths": [1_000_000] * 4}),
        ("cifar10-resnet9", {"widths": [8] * 1_000_000}),
        ("cifar10-resnet9", {"classes": 10**12}),
        ("cifar10-resnet9", {"classes": 10**30}),
        ("cifar10-resnet9", {"channels": -3}),
        ("cifar10-resnet9", {"widths": {"a": 1}}),
        ("cifar10-resnet9", {"architecture": "resnet20", "blocks": [10**12] * 3, "widths": [1] * 3}),
        ("cifar10-pixelcnn", {"features": 512, "layers": 512}),
        ("cifar10-hgd", {"widths": [1024] * 1_000_000}),
    ],
)
def test_sizes_in_a_header_are_compared_before_memory_is_taken(
    name: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    """Few tensors and an architecture that would take hours to build, or more memory than there is."""
    facts = zoo.facts(name)
    header = asdict(replace(facts, architecture={**facts.architecture, **sizes}))
    path = tmp_path / "odd.safetensors"
    save_file(zoo.read(name, kind=facts.kind)[1], path, metadata={"comdefend": json.dumps(header)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        RequestError, match=r"odd\.safetensors' (do not fit their|have an impossible) architecture"
    ):
        LOADERS[name](str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    "header",
    ["[" * 100_000, '{"name": ' + "9" * 5000 + "}", '{"kind": "purifier", "name": "a", "architecture": {}, '
     '"data": "x", "made": "y", "recipe": []}'],
    ids=["deep", "long", "type"],
)  # fmt: skip
def test_headers_that_are_no_facts_are_refused(header: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"comdefend": header})
    with pytest.raises(RequestError, match=r"a\.safetensors' have no readable facts: .{1,400}$"):
        zoo.read(str(tmp_path / "a.safetensors"), kind="purifier")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("rec.layers.4.bias"), "rec.layers.4.bias is not stored and 3 needed"),
        (lambda tensors: tensors.update(more=torch.zeros(2, 3)), "more is 2x3 stored and not needed"),
        (lambda tensors: tensors.update({"rec.layers.4.bias": torch.zeros(4)}), "is 4 stored and 3 needed"),
    ],
)
def test_weights_that_do_not_fit_say_where(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, tmp_path: Path
) -> None:
    write_tiny(tmp_path / "tiny.safetensors")
    _, tensors = zoo.read(str(tmp_path / "tiny.safetensors"), kind="purifier")
    change(tensors)
    with pytest.raises(RequestError, match=f"do not fit their architecture: .*{message}$"):
        zoo.fill(tiny_model(), tensors, name="tiny")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.safetensors")
    _, tensors = zoo.read(str(tmp_path / "tiny.safetensors"), kind="purifier")
    with pytest.raises(RequestError, match="do not fit their architecture"):
        zoo.fill(ComDefend(), tensors, name="tiny")


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_weights_are_the_recorded_ones_and_say_how_they_were_made(name: str) -> None:
    facts = zoo.facts(name)
    read, _ = zoo.read(name, kind=facts.kind)
    assert (read.name, read.architecture) == (facts.name, facts.architecture)
    assert facts.recipe["data"] == facts.data
    assert "recipe" in facts.made
    assert facts.scores


@pytest.mark.parametrize("name", sorted(zoo.names()))
def test_shipped_weights_were_made_by_the_recipe_that_is_here(name: str) -> None:
    facts = zoo.facts(name)
    said = re.match(r"recipe ([\w-]+), ", facts.made)
    assert said
    recipe = json.loads(json.dumps(load_recipe(said[1]).to_dict()))
    sections = {"pair", "classifier"} if recipe["trains"] == "pair" else {recipe["trains"]}
    settings = {key for key in recipe if not isinstance(recipe[key], dict)} - {"precision"}
    for then, now in [(facts.recipe, {key: recipe[key] for key in settings})] + [
        (facts.recipe[section], recipe[section]) for section in sections
    ]:
        shared = then.keys() & now.keys()
        assert {key: then[key] for key in shared} == {key: now[key] for key in shared}


@pytest.mark.parametrize(("name", "lowest"), [("cifar10", 32.5), ("fashion-mnist", 30.0), ("mnist", 30.0)])
def test_shipped_purifiers_reconstruct_the_whole_test_split(name: str, lowest: float) -> None:
    facts = zoo.facts(name)
    assert facts.scores["test_psnr"] >= lowest
    assert facts.scores["images"] >= 8000


@pytest.mark.parametrize(("name", "lowest"), [("cifar10-resnet9", 0.90), ("fashion-mnist-resnet9", 0.93)])
def test_shipped_classifiers_classify_the_whole_test_split(name: str, lowest: float) -> None:
    facts = zoo.facts(name)
    assert facts.scores["test_accuracy"] >= lowest
    assert facts.scores["images"] >= 8000


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_shipped_purifiers_reach_on_the_sample_what_is_recorded(name: str) -> None:
    images = load_data(f"sample:{name}").images(range(40))
    found = psnr(load_comdefend(name)(images), images)
    error = 3 * float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - zoo.facts(name).scores["test_psnr"]) < error


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_shipped_classifiers_reach_on_the_sample_what_is_recorded(name: str) -> None:
    data = load_data(f"sample:{name}")
    rows = range(400)
    with torch.no_grad():
        correct = load_classifier(f"{name}-resnet9")(data.images(rows)).argmax(1) == data.labels(rows)
    low, high = wilson(int(correct.sum()), len(rows), z=3.3)
    assert low < zoo.facts(f"{name}-resnet9").scores["test_accuracy"] < high


def test_facts_in_words_say_what_stood_in_front_and_who_attacked() -> None:
    attacked = {
        "gray_box_accuracy": 0.4, "white_box_accuracy": 0.3, "attacked_images": 20, "epsilon": "8/255 linf",
    }  # fmt: skip
    scores = {"test_accuracy": 0.785, **attacked}
    known = zoo.Facts("x", "classifier", {}, "cifar10", "a test", scores=scores)
    expected = (
        "78.5 % accuracy, under attack 40.0 % gray-box and 30.0 % white-box (fixed, 8/255 linf, 20 images)"
    )
    assert known.in_words() == expected
    assert zoo.facts("cifar10-resnet9-purified").in_words().endswith("behind its purifier")
    assert zoo.facts("cifar10-resnet9-plain").in_words().endswith("% accuracy")
    own = zoo.Facts("x", "purifier", {}, "cifar10", "a test", scores={"test_psnr": 24.5})
    assert own.in_words() == "24.50 dB PSNR"


@pytest.mark.slow
def test_the_guided_purifier_does_on_the_sample_what_is_recorded() -> None:
    """The counts of the very images and attacks that were counted when it was shipped: FGSM and BIM on a
    guide, which is not retrained.
    """
    settings = dict(zoo.facts("cifar10-guided").scores["sample"])
    recorded, guide = settings.pop("right"), settings.pop("guide")
    found = evaluate(
        guide, {"guided": "comdefend:weights=cifar10-guided"}, data="sample:cifar10",
        epsilons=float(settings.pop("epsilon").split("/")[0]) / 255, protocol="fixed", checks=False,
        examples=0, **settings,
    ).results  # fmt: skip
    right = {(r.defence, r.attack): r.correct for r in found if r.attack != WORST}
    assert {attack for _, attack in right} == {"none", "fgsm", "bim"}
    for (defence, attack), count in right.items():
        assert abs(count - recorded[defence][attack]) <= 2, (defence, attack)  # others round otherwise
    low, _ = wilson(int(right["guided", "bim"]), settings["limit"], z=3.3)
    _, high = wilson(int(right["none", "bim"]), settings["limit"], z=3.3)
    assert high < low


@pytest.mark.slow
def test_the_adversarially_trained_classifier_withstands_on_the_sample_what_is_recorded() -> None:
    scores = zoo.facts("cifar10-resnet9-adversarial").scores
    limit, recorded = scores["sample"]["limit"], scores["sample"]["right"]
    found = evaluate(
        "cifar10-resnet9-adversarial", "none", data="sample:cifar10", attacks=scores["attacks"],
        epsilons=float(scores["epsilon"].split("/")[0]) / 255, protocol="fixed", knowledge=["white-box"],
        checks=False, limit=limit, examples=0,
    ).results  # fmt: skip
    (worst,) = (r for r in found if r.attack == WORST)
    assert abs(worst.correct - recorded) <= 2  # others round otherwise
    assert worst.correct > 0.3 * limit


def test_purifiers_of_few_bits_take_an_eighth_of_the_papers_arithmetic() -> None:
    def arithmetic(name: str) -> float:
        """Multiply-adds a pixel: each weight of a convolution once for each place it is put to."""
        purifier = load_comdefend(name)
        weights = sum(p.numel() for p in purifier.model.parameters() if p.dim() == 4)
        return weights / purifier.model.config.block**2

    assert 8 * arithmetic("cifar10-guided") < arithmetic("cifar10")


def test_shipped_files_stay_small() -> None:
    folder = Path(zoo.__file__).parent
    assert sum(p.stat().st_size for p in (folder / "weights").glob("*")) < 40e6
    assert sum(p.stat().st_size for p in (folder / "samples").glob("*")) < 2e6
    for name in zoo.names("classifier"):
        assert (folder / "weights" / f"{name}.safetensors").stat().st_size < 3e6


def test_the_default_weights_suit_the_images() -> None:
    def name(kind: Literal["purifier", "pixelcnn", "denoiser"], channels: int, data: str | None) -> str:
        return zoo.default(kind, channels=channels, data=data)

    assert name("purifier", 1, None) == name("purifier", 1, "sample:fashion-mnist") == "fashion-mnist"
    assert name("purifier", 1, "mnist") == name("purifier", 1, "sample:mnist") == "mnist"
    assert name("purifier", 3, None) == name("purifier", 3, "photos") == "cifar10"
    assert name("purifier", 1, "sample:cifar10") == "fashion-mnist"
    with pytest.raises(RequestError, match="no purifier weights ship for images of 2 channels"):
        name("purifier", 2, None)
