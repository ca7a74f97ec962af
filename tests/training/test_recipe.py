"""Recipes: the shipped ones, overrides, and what is refused."""

import time
from pathlib import Path

import pytest

from comdefend.errors import RequestError
from comdefend.training import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.total_steps(50_000) > 0


def test_the_papers_recipe_has_the_papers_settings() -> None:
    recipe = load_recipe("cifar10-paper")
    assert (recipe.epochs, recipe.batch, recipe.optimiser) == (30, 50, "adam")
    assert (recipe.learning_rate, recipe.final_learning_rate) == (0.01, 0.0001)
    assert (recipe.purifier.lam, recipe.purifier.phi, recipe.purifier.bits) == (0.0001, 20.0, 12)
    assert recipe.total_steps(50_000) == 30_000


def test_overrides_reach_nested_settings() -> None:
    recipe = load_recipe("cifar10", ["purifier.bits=8", "learning_rate=1e-3", "steps=7"])
    assert (recipe.purifier.bits, recipe.learning_rate, recipe.steps) == (8, 0.001, 7)


def test_the_length_given_last_counts() -> None:
    assert load_recipe("cifar10-paper", ["steps=5"]).epochs is None
    assert load_recipe("cifar10", ["epochs=2"]).total_steps(6400) == 200


def test_a_recipe_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trains: purifier\ndata: photos\nbatch: 4\nlearning_rate: 1e-3\nsteps: 10\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.data, recipe.learning_rate) == ("mine", "photos", 0.001)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown setting 'stepz'"),
        ("purifier.bit=3", "unknown setting 'bit'"),
        ("steps=many", "steps is 'many'; it must be a whole number or null"),
        ("batch=0", "batch is 0"),
        ("optimiser=lion", "one of adam, sgd, muon"),
        ("learning_rate=-1", "must be positive and finite"),
        ("purifier.bits=99", "bits is 99"),
        ("schedule=exponential", "needs a final_learning_rate"),
        ("steps", "form key=value"),
        ("batch.size=3", "batch is not a group"),
        ("learning_rate=null", "learning_rate is None; it must be a number"),
        ("purifier.guides=x", "guides is 'x'; it must be a list of texts"),
        ("purifier.matching=0.1", "matching and guide_noise need guides"),
        ("purifier.noise_octaves=1", "noise_octaves needs noise"),
        ("purifier.noise_octaves=9", "noise_octaves is 9; it must be from 0 to 8"),
        ("purifier.guide_noise=256", "guide_noise is 256.0; it must be from 0 to 255"),
        ("purifier=3", "purifier must be a group"),
        ("crop=true", "crop is True"),
        ("learning_rate=.nan", "learning_rate is nan"),
        ("clip=-1", "clip is -1"),
        ("seed=-1", "seed is -1"),
        ("seed=99999999999999999999", "seed is 9"),
        ("classifier.widths=[0,8]", "classifier.widths must be"),
        ("classifier.widths=[8]", "classifier.widths must be"),
        ("purifier.phi=.inf", "must be finite"),
        ("purifier.gain=0", "gain is 0"),
        ("purifier.image_channels=0", "image_channels is 0"),
        ("classifier.shift=-1", "must not be negative"),
        ("name=../../x", "must be one word"),
    ],
)
def test_wrong_settings_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_recipe("cifar10", [override])


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(RequestError, match="cifar10-paper"):
        load_recipe("cifar11")


@pytest.mark.parametrize("content", ["a: [", "- 1", "\x00", "{trains: purifier}"])
def test_files_that_are_no_recipes_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(RequestError, match="broken"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classifier.average=1", r"classifier.average is 1.0; it must be in \[0, 1\)"),
        ("classifier.pgd_steps=0", "classifier.pgd_steps is 0; it must be at least 1"),
        ("classifier.epsilon=0", "classifier.epsilon is 0.0; it must lie above 0"),
    ],
)
def test_impossible_adversarial_training_is_refused(override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_recipe("cifar10-resnet9-adversarial", [override])


SOUND = "trains: purifier\ndata: photos\nbatch: 4\nlearning_rate: 1e-3\nsteps: 10\n"

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SOUND + LAUGHS + "name: *a11\n", "line 6: anchors and aliases"),
        (SOUND + "purifier: &p {bits: 8}\nclassifier:\n  <<: *p\n", "line 6: anchors and aliases"),
        (SOUND + "<<: {batch: 8}\n", "unknown setting '<<'"),
        (SOUND + "seed: !!int many\n", r"line 6: tags \(!\)"),
        (SOUND + "crop: !!timestamp x\n", r"line 6: tags \(!\)"),
        (SOUND + "batch: 8\n", "line 6: 'batch' is given twice"),
        (SOUND + "purifier:\n  bits: 8\n  phi: 1.0\n  'bits': 9\n", "line 9: 'bits' is given twice"),
        (SOUND + "? [a]\n: 1\n", "line 6: found unhashable key"),
        (SOUND.replace("4", "2024-99-01"), "batch is '2024-99-01'; it must be a whole number"),
        (SOUND.replace("4", "2024-01-01"), "batch is '2024-01-01'; it must be a whole number"),
        (SOUND + f"seed: {'9' * 5000}\n", "line 6: a value has more than 40 characters"),
        (SOUND + f"learning_rates: 0x{'f' * 5000}\n", "line 6: a value has more than 40 characters"),
        (SOUND + f"name: {'x' * 5000}\n", "line 6: a value has more than 1000 characters"),
        (SOUND + f"{'x' * 500}: 1\n", "unknown setting 'xxx"),
        (SOUND + "seed: 0b_\n", "ValueError: invalid literal"),
        (SOUND + f"name: {'[' * 3000}{']' * 3000}\n", "line 6: it is more than 20 levels deep"),
        (SOUND + f"name: {'{a: ' * 3000}1{'}' * 3000}\n", "line 6: it is more than 20 levels deep"),
        ("- " * 3000 + "x\n", "line 1: it is more than 20 levels deep"),
        (SOUND + f"name: [{'x, ' * 5000}]\n", "name is .*; it must be text"),
        (SOUND + "#" * 200_000, "it has more than 100000 bytes"),
        (SOUND + "---\na: 1\n", "but found another document"),
        (SOUND + 'extends: "\\0.yaml"\n', "cannot be read: ValueError: embedded null byte"),
        (SOUND.encode() + b"name: \xff\n", "cannot be read: UnicodeDecodeError"),
    ],
)
def test_files_that_no_recipe_needs_are_refused_at_once_in_one_line(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with pytest.raises(RequestError, match=message) as refused:
        load_recipe(str(path))
    assert time.monotonic() - began < 2
    assert len(str(refused.value)) < 800
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    ["&a [1]", "*a", "!!int x", "{a: 1, a: 2}", "[" * 3000, "9" * 5000, "[x\n", "x" * 200_000, "- a\nb"],
)
def test_overrides_that_are_no_values_are_refused_in_one_line(value: str) -> None:
    with pytest.raises(RequestError, match=r"override 'seed=.*the value is no YAML: ") as refused:
        load_recipe("cifar10", [f"seed={value}"])
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)
