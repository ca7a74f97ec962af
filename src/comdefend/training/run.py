"""`train`: from a recipe to a folder with weights, their facts, logs, grids and checkpoints."""

import logging
import os
import signal
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from comdefend import provenance, zoo
from comdefend.atomic import output_folder, replacing
from comdefend.data import load_data
from comdefend.device import fast_dtype
from comdefend.errors import RequestError, WorkError
from comdefend.training.base import Training
from comdefend.training.classifier import ClassifierTraining
from comdefend.training.denoiser import DenoiserTraining
from comdefend.training.pixelcnn import PixelCNNTraining
from comdefend.training.purifier import PurifierTraining
from comdefend.training.recipe import PRECISIONS, Recipe

log = logging.getLogger(__name__)

LAST = "last.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are either the old one or the new one, never half of it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class Progress(Callback):
    """One line for each interval: step, score, rate, time left."""

    def __init__(self) -> None:
        self.started = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started, self.first_step = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        done = trainer.global_step - self.first_step
        if trainer.sanity_checking or not done:
            return
        names = (pl_module.score_name, *pl_module.also)
        rate = done / (time.monotonic() - self.started)
        left = (pl_module.total_steps - trainer.global_step) / rate
        scale = 100 if pl_module.unit == "%" else 1
        shown = "  ".join(
            f"{name} {scale * float(trainer.callback_metrics[name]):.2f} {pl_module.unit}" for name in names
        )
        log.info(
            "step %d/%d  %s  loss %.5f  %.1f images/s  %s left",
            trainer.global_step, pl_module.total_steps, shown,
            float(trainer.callback_metrics.get("loss", float("nan"))),
            rate * pl_module.recipe.batch, f"{int(left // 60)}:{int(left % 60):02d}",
        )  # fmt: skip


def train(
    recipe: Recipe,
    *,
    output: Path,
    resume: bool = False,
    device: str = "auto",
    devices: int | None = None,
    stop_after: int | None = None,
) -> zoo.Facts | None:
    """Train what a recipe describes; the weights end as `output/weights.safetensors`.

    `resume` continues from `output/last.ckpt` on the path that an unbroken run would have taken.
    `stop_after`: leave after so many intervals, as if interrupted (None is returned then).

    Raises `RequestError` where `output` holds another run or nothing to resume, `WorkError` where
    the loss is no longer a number.
    """
    checkpoint = output / LAST
    if resume and not checkpoint.is_file():
        raise RequestError(f"output {str(output)!r} holds no {LAST}: nothing to resume")
    began = _begun(checkpoint) if resume else {}
    if recipe.precision == "auto":  # settled once: a run that moves to another machine goes on as it began
        recipe = replace(recipe, precision=began.get("precision", fast_dtype(device)))
    if resume:
        _check_same_recipe(recipe, began, output)
    if not resume and checkpoint.is_file():
        raise RequestError(f"output {str(output)!r} holds a run already; use --resume or another folder")
    # Of several processes of one training the first has the folder for them all.
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with output_folder(output) if first else nullcontext():
        return _trained(recipe, output, resume=resume, device=device, devices=devices, stop_after=stop_after)


def _trained(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool,
    device: str,
    devices: int | None,
    stop_after: int | None,
) -> zoo.Facts | None:
    checkpoint = output / LAST
    # Lightning's own messages are for its developers; ours say what a user needs.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = _module(recipe, output)
    trainer = _trainer(recipe, module, output, device=device, devices=devices, stop_after=stop_after)
    log.info("recipe %s: %d steps of %d images", recipe.name, module.total_steps, recipe.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(module, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C, deaf to it from then on
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise WorkError(f"interrupted at step {trainer.global_step}; continue with --resume") from error
    if trainer.global_step < module.total_steps:
        log.info("stopped at step %d; continue with --resume", trainer.global_step)
        return None
    if module.score_name not in trainer.callback_metrics:  # resumed after the last step
        trainer.validate(module, verbose=False)
    if not all(torch.isfinite(p).all() for p in module.network.parameters()):
        raise WorkError("the weights are no longer numbers: start again with a lower learning_rate")
    if not trainer.is_global_zero:  # of several processes one writes
        return None
    return _finish(module, trainer, output)


def _begun(checkpoint: Path) -> dict[str, Any]:
    """The recipe that a run began with, from its checkpoint."""
    try:
        return dict(torch.load(checkpoint, weights_only=True)["recipe"])
    except Exception as error:  # a damaged file can raise anything
        raise RequestError(f"{str(checkpoint)!r} is no checkpoint of a run: {error}") from error


def _check_same_recipe(recipe: Recipe, began: dict[str, Any], output: Path) -> None:
    """A run goes on as it began; another recipe would be neither the one nor the other."""
    now = recipe.to_dict()
    changed = [key for key in now if now[key] != began.get(key)]
    if changed:
        raise RequestError(
            f"{str(output)!r} was begun with another {', '.join(changed)}: "
            f"{', '.join(f'{key}={began.get(key)}' for key in changed)}; "
            "resume with the same settings, or start in another folder"
        )


def _module(recipe: Recipe, output: Path) -> Training:
    data = load_data(recipe.data, split="train")
    validation = load_data(recipe.data, split="test")
    if data.split == validation.split:  # one split for both: some images are held out
        held = set(data.pick(max(1, min(recipe.validation_images, len(data) // 10)), seed=0))
        validation = data.subset(sorted(held))
        if len(held) < len(data):
            data = data.subset([index for index in range(len(data)) if index not in held])
    else:
        validation = validation.subset(validation.pick(recipe.validation_images, seed=0))
    if recipe.trains == "purifier":
        return PurifierTraining(recipe, data, validation, grids=output / "grids")
    if recipe.trains == "classifier":
        return ClassifierTraining(recipe, data, validation, cache=output)
    if recipe.trains == "pixelcnn":
        return PixelCNNTraining(recipe, data, validation)
    return DenoiserTraining(recipe, data, validation)


def _trainer(
    recipe: Recipe,
    module: Training,
    output: Path,
    *,
    device: str,
    devices: int | None,
    stop_after: int | None,
) -> lightning.Trainer:
    steps = module.total_steps
    if stop_after is not None:
        steps = min(steps, stop_after * recipe.interval)
    kind, _, index = device.partition(":")
    chosen: list[int] | int | str = [int(index)] if index else devices or "auto"
    return lightning.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=1 if kind == "cpu" else chosen,
        precision=PRECISIONS[recipe.precision],  # type: ignore[arg-type]
        # Steps are what is counted: an epoch here is an interval, and a resumed run begins a new one.
        max_epochs=-1,
        max_steps=steps,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        gradient_clip_val=recipe.clip,
        log_every_n_steps=min(20, recipe.interval),
        callbacks=[
            Progress(),
            ModelCheckpoint(
                output,
                filename="last",
                save_top_k=1,
                enable_version_counter=False,
                # After validation, the epoch would count as unfinished, and resuming would repeat it.
                save_on_train_epoch_end=True,
            ),
        ],
        logger=[
            TensorBoardLogger(output, name="tensorboard", version=""),
            CSVLogger(output, name="csv", version=""),
        ],
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=output,
    )


def _finish(module: Training, trainer: lightning.Trainer, output: Path) -> zoo.Facts:
    recipe = module.recipe
    hardware = provenance.hardware()
    machine = hardware.get("gpu", f"{hardware['cores']} processor cores")
    measured = {
        f"validation_{name}": float(trainer.callback_metrics[name])
        for name in (module.score_name, *module.also)
    }
    facts = zoo.Facts(
        name=recipe.name,
        kind=module.kind,
        architecture=module.architecture(),
        data=recipe.data,
        made=f"recipe {recipe.name}, {module.total_steps} steps, torch {torch.__version__}, {machine}",
        recipe=recipe.to_dict(),
        scores={**measured, **module.judged_on()},
    )
    return zoo.write(module.trained(), facts, output / "weights.safetensors")
