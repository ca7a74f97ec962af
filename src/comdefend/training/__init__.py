"""Training of purifiers and classifiers by recipe. Needs the extra `train`."""

from pathlib import Path

from comdefend.errors import MissingExtraError
from comdefend.training.recipe import Recipe, load_recipe, recipe_names
from comdefend.zoo import Facts

__all__ = ["Recipe", "load_recipe", "recipe_names", "start"]


def start(
    recipe: Recipe,
    *,
    output: Path,
    resume: bool = False,
    device: str = "auto",
    devices: int | None = None,
    stop_after: int | None = None,
) -> Facts | None:
    """Train what a recipe describes: see `training.run.train`, which needs Lightning."""
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", extra="train", package="lightning") from error
    from comdefend.training.run import train

    return train(recipe, output=output, resume=resume, device=device, devices=devices, stop_after=stop_after)
