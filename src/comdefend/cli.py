"""The command line: one typed function for each command, none with logic of its own.

Exit codes: 0 done, 1 the work failed (or part of it), 2 the request was wrong. With --json a command
puts one JSON document on standard output; everything else goes to standard error.
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

import comdefend
from comdefend.atomic import output_folder
from comdefend.errors import RequestError, WorkError, check_extra
from comdefend.evaluation.spec import EvaluationSpec
from comdefend.options import with_options_of
from comdefend.references import split_list
from comdefend.terminal import (
    bar,
    emit,
    failed,
    only_the_document,
    screen,
    show_grids,
    show_models,
    show_plan,
    show_report,
)

# Read when torch is imported. Threads that spin at barriers make a busy machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="comdefend",
    help="Purify images of adversarial perturbations before a classifier sees them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
"""What typer returns after Ctrl-C."""

_EVALUATING = ("datasets", "foolbox", "matplotlib")
"""What an evaluation with its report imports beside what is always there."""

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("comdefend-demo"),
    limit: Annotated[int, typer.Option(min=1, help="How many sample images.")] = 100,
    json_: Json = False,
) -> None:
    """Attack sample images, purify them, and show what that is worth: tables and pictures.

    Two classifiers with a purifier each, one after the other; --json gives the results of both as one list.
    """
    from comdefend.demo import run_demo

    check_extra("evaluate", *_EVALUATING, feature="the demo")
    with bar("demo", json_) as progress:
        made = run_demo(output, limit=limit, progress=progress)
    if json_:
        emit([asdict(result) for _, report, _ in made for result in report.results])
        return
    for part, report, paths in made:
        show_report(report, paths, as_json=False)
        print(f"Picture: {paths['grid']}")
        print(part.caption)


@app.command()
def purify(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or - for standard input.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file, a folder, or - for standard output.")
    ],
    purifier: Annotated[str, typer.Option(help="Purifier by reference.")] = "comdefend",
    format: Annotated[str | None, typer.Option(help="png, webp, tiff, bmp (without loss) or jpg.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip inputs whose output exists.")] = False,
    dtype: Annotated[
        str, typer.Option(help="float32; bfloat16 or float16: faster where supported.")
    ] = "float32",
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of a random purifier, to draw the same in each run; others can, too."),
    ] = None,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Purify image files: PNG, JPEG, WebP, TIFF, BMP, of up to 90 million pixels (4.5 GB of memory).

    The EXIF orientation is applied, alpha is kept, and a colour profile of up to 1 MB where it is one of the
    output's kind of pixels; other metadata is dropped. Links are followed. A random purifier draws anew in
    each run, unless it has a seed.
    """
    from comdefend import purifiers
    from comdefend.device import find_device
    from comdefend.image import LOSSY
    from comdefend.purifiers import files, is_random

    if json_ and output == files.STREAM:
        raise RequestError("--json and --output - would both write to standard output")
    plan = files.plan(inputs, output, format=format)
    if any(job.format in LOSSY for job in plan.jobs):
        screen.print("JPEG loses detail, and is a defence of its own: the result is both together.")
    module = purifiers.load(purifier, dtype=dtype).to(find_device(device))
    if is_random(module) and seed is None:
        import torch

        torch.seed()  # by default torch draws the same in each process, which an attacker can do, too
    with bar("purifying", json_) as progress:
        outcome = files.run(
            plan,
            module,
            overwrite=overwrite,
            skip_existing=resume,
            seed=seed,
            progress=lambda done: progress(done, len(plan.jobs), ""),
        )
    for source, reason in outcome.failures:
        line = reason if source in reason else f"{source}: {reason}"
        screen.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    if outcome.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(outcome.ignored.items()))
        screen.print(f"left out, since they are no images: {kinds}", highlight=False, markup=False)
    if json_:
        emit(asdict(outcome))
    else:
        screen.print(f"{outcome.written} purified, {outcome.skipped} skipped, {len(outcome.failures)} failed")
    if outcome.failures:
        raise typer.Exit(2 if outcome.refused == len(plan.jobs) else 1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or the path of a .yaml file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run (runs/RECIPE).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    devices: Annotated[int | None, typer.Option(help="How many GPUs.")] = None,
    json_: Json = False,
) -> None:
    """Train a purifier or a classifier by recipe, e.g.  comdefend train cifar10 purifier.bits=8"""
    from comdefend.device import keep_freed_memory
    from comdefend.training import load_recipe, start

    keep_freed_memory()
    plan = load_recipe(recipe, overrides)
    folder = output or Path("runs") / plan.name
    known = start(plan, output=folder, resume=resume, device=device, devices=devices)
    if json_:
        emit(asdict(known) if known else None)
    elif known:
        print(f"{folder / 'weights.safetensors'}: {known.scores}")


@app.command()
@with_options_of(EvaluationSpec)
def evaluate(
    context: typer.Context,
    classifier: Annotated[str, typer.Option(help="Zoo name, weights file, or PATH.py:FACTORY.")],
    data: Annotated[str, typer.Option(help="cifar10, fashion-mnist, mnist, a path, hf:..., sample:...")],
    spec: EvaluationSpec,
    defences: Annotated[
        list[str] | None, typer.Option(help="Purifiers by reference, comma-separated; repeatable.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be run and about how long it takes; run nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where a check of the evaluation fails.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the output folder holds of these very scenarios.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the evaluation that the output folder holds.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("comdefend-report"),
    json_: Json = False,
) -> None:
    """Accuracy of a classifier behind purifiers, clean and attacked, with a report to look at."""
    from comdefend.device import keep_freed_memory
    from comdefend.evaluation import Store
    from comdefend.evaluation import evaluate as run_evaluation
    from comdefend.evaluation import plan as plan_evaluation
    from comdefend.evaluation.report import write_report

    check_extra("evaluate", *_EVALUATING, feature="an evaluation")
    keep_freed_memory()
    if strict and ("white-box" not in spec.knowledge or not spec.checks):
        raise RequestError("--strict needs --knowledge white-box and --checks: nothing is checked without")
    purifiers = _lists("defences", defences) or ["comdefend"]
    if plan:
        show_plan(plan_evaluation(classifier, purifiers, data, spec), json_)
        return
    with output_folder(output):
        store = Store.of_folder(output, resume=resume, overwrite=overwrite)
        with bar("evaluating", json_) as progress:
            report = run_evaluation(classifier, purifiers, data, spec, store=store, progress=progress)
        command = shlex.join(["comdefend", *context.obj])
        show_report(report, write_report(report, output, command=command, store=store), json_)
    failing = [check for check in report.checks if check.status == "fail"]
    if strict and failing:
        raise WorkError(
            f"{len(failing)} checks of the evaluation failed: "
            + "; ".join(f"{check.defence}: {check.title}" for check in failing)
        )


@app.command()
def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="table3 ... table9, figure3, figure4, speed.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images for each cell.")] = None,
    protocol: Annotated[str, typer.Option(help="fixed, minimal, or fixed,minimal.")] = "minimal,fixed",
    classifier: Annotated[
        str | None, typer.Option(help="Another classifier for the tables' rows without training.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Other data than the table's.")] = None,
    trained: Annotated[Path, typer.Option(help="Runs of recipes whose weights do not ship.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of an experiment's trainings.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every point of the paper's grid (table4).")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Annotated[
        str, typer.Option(help="What the purifiers compute in: float32, bfloat16, float16.")
    ] = "float32",
    output: Annotated[Path, typer.Option(help="Folder of the results files.")] = Path("reproduction"),
    json_: Json = False,
) -> None:
    """Run experiments of the paper again, ours beside its numbers; what is in the output is not run twice."""
    from comdefend.paper import check_experiment
    from comdefend.paper.experiments import run
    from comdefend.paper.settings import Settings

    names = [check_experiment(name) for name in experiments]
    settings = Settings(
        limit=limit,
        protocols=tuple(_list("protocol", protocol)),  # type: ignore[arg-type]
        classifier=classifier,
        data=data,
        trained=trained,
        steps=steps,
        full=full,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    documents = []
    with output_folder(output):
        for name in names:
            with bar(name, json_) as progress:
                parts = run(name, settings, output=output, bar=lambda _: progress)
            for part in parts:
                documents.append({"name": part.name, "files": [str(f) for f in part.files], **part.origin})
                if not json_:
                    show_grids(part)
                    print(f"Results: {', '.join(str(file) for file in part.files)}")
    if json_:
        emit(documents)


@app.command()
def models(json_: Json = False) -> None:
    """What the zoo holds: shipped weights and how good they are."""
    from comdefend import zoo

    known = [zoo.facts(name) for name in zoo.names()]
    if json_:
        emit([asdict(facts) for facts in known])
    else:
        show_models(sorted(known, key=lambda facts: get_args(zoo.Kind).index(facts.kind)))


@app.command()
def convert(
    encoder: Annotated[Path, typer.Argument(metavar="ENC.npy", help="The authors' encoder weights.")],
    decoder: Annotated[Path, typer.Argument(metavar="DEC.npy", help="The authors' decoder weights.")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    json_: Json = False,
) -> None:
    """Convert the authors' released weights to safetensors. Anything but arrays in them is refused."""
    from comdefend import zoo
    from comdefend.released import convert_released

    if output.suffix != ".safetensors":
        raise RequestError(f"output {str(output)!r} must end in .safetensors")
    taken = [path for path in (output, output.with_suffix(".json")) if path.exists()]
    if taken and not overwrite:
        raise RequestError(f"{str(taken[0])!r} exists already; --overwrite replaces it")
    model = convert_released(encoder, decoder)
    facts = zoo.write(
        model,
        zoo.Facts(
            name=output.stem,
            kind="purifier",
            architecture=asdict(model.config),
            data="unknown",
            made=f"converted from {encoder.name} and {decoder.name}",
            licence="none stated by the authors",
        ),
        output,
        half=False,
    )
    if json_:
        emit(asdict(facts))
    else:
        print(f"{output}: {model.config}")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads to use.")] = None,
) -> None:
    if version:
        print(comdefend.__version__)
        raise typer.Exit
    if threads:
        import torch

        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors that a user can act on become one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("comdefend").setLevel(logging.INFO)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with only_the_document() if "--json" in given else nullcontext():
            code = app(args=given, obj=given, standalone_mode=False)
        if code == _INTERRUPTED:
            return failed("interrupted", 1)
        return code if isinstance(code, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except RequestError as error:
        return failed(error, 2)
    except WorkError as error:
        return failed(error, 1)
    except BrokenPipeError:
        # The reader went away; nothing may be written to it on the way out either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return failed(error, 1)
    except Exception as error:
        # typer's own errors, without importing click, which typer may carry inside itself
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        message = show()
        return failed(message, 2) if message else 2  # without any words: the help was shown


def _list(option: str, text: str) -> list[str]:
    parts = split_list(text)
    if not parts:
        raise RequestError(f"--{option} is empty; give one or more, separated by commas")
    return parts


def _lists(option: str, texts: Sequence[str] | None) -> list[str]:
    """What an option named that may be repeated, and name several each time."""
    return [part for text in texts or () for part in _list(option, text)]
