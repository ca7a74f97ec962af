"""Commands as a user runs them: output, exit codes, messages."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import comdefend
from comdefend import zoo
from comdefend.atomic import output_folder
from comdefend.attacks import FGSM
from comdefend.cli import main
from comdefend.errors import WorkError
from comdefend.evaluation import read_results
from comdefend.evaluation.checks import checks
from comdefend.image import read_picture
from tests.conftest import tiny_model

Writer = Callable[..., Path]


@pytest.fixture
def tiny_weights(tmp_path: Path) -> str:
    """A reference to weights of a tiny purifier, so that commands are quick."""
    model = tiny_model()
    model.com.fold_gain()
    facts = zoo.Facts("tiny", "purifier", asdict(model.config), data="none", made="a test")
    zoo.write(model, facts, tmp_path / "tiny.safetensors")
    return f"comdefend:weights={tmp_path / 'tiny.safetensors'}"


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in ("demo", "purify", "train", "evaluate", "models", "convert"):
        assert command in out


def test_without_a_command_the_help_is_shown_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    shown = capsys.readouterr()
    assert "purify" in shown.out
    assert shown.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == comdefend.__version__


def test_purify_one_file(image_file: Writer, tmp_path: Path, tiny_weights: str) -> None:
    assert run("purify", image_file("a.jpg"), "--output", tmp_path / "b.png", "--purifier", tiny_weights) == 0
    assert read_picture(tmp_path / "b.png").pixels.shape == (1, 3, 9, 12)


def test_purify_draws_what_nobody_can_know(image_file: Writer, tmp_path: Path, tiny_weights: str) -> None:
    source, purified = image_file("a.png"), []
    for name in ("b.png", "c.png"):
        torch.manual_seed(0)
        assert run("purify", source, "-o", tmp_path / name, "--purifier", f"{tiny_weights},noise=1000") == 0
        purified.append((tmp_path / name).read_bytes())
    assert purified[0] != purified[1]


def test_purify_a_folder_with_a_corrupt_file_exits_with_1(
    image_file: Writer, tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image_file("in/a.png")
    image_file("in/deep/b.png")
    (tmp_path / "in" / "c.png").write_bytes(b"broken")
    code = run("purify", tmp_path / "in", "-o", tmp_path / "out", "--purifier", tiny_weights, "--json")
    captured = capsys.readouterr()
    assert code == 1
    outcome = json.loads(captured.out)
    assert outcome["written"] == 2
    assert outcome["failures"][0][0].endswith("c.png")
    assert "c.png is not an image" in captured.err


def test_purify_an_existing_output_exits_with_2_and_overwrite_replaces_it(
    image_file: Writer, tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["purify", image_file("a.png"), "-o", image_file("b.png"), "--purifier", tiny_weights]
    before = (tmp_path / "b.png").read_bytes()
    assert run(*arguments) == 2
    assert "--overwrite replaces" in capsys.readouterr().err
    assert (tmp_path / "b.png").read_bytes() == before
    assert run(*arguments, "--overwrite") == 0
    assert (tmp_path / "b.png").read_bytes() != before


def test_purify_names_what_it_left_out_and_exits_with_0_only_when_all_was_done(
    image_file: Writer, tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image_file("in/a.png")
    (tmp_path / "in" / "notes.txt").touch()
    arguments = ("purify", tmp_path / "in", "--purifier", tiny_weights)
    assert run(*arguments, "-o", tmp_path / "out") == 0
    assert "left out, since they are no images: 1 .txt" in capsys.readouterr().err
    Image.new("L", (4, 4)).save(tmp_path / "in" / "b.gif")
    assert run(*arguments, "-o", tmp_path / "again") == 1
    assert "b.gif is not an image that can be read" in capsys.readouterr().err


def test_purify_into_a_folder_where_another_is_at_work_exits_with_2(
    image_file: Writer, tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image_file("in/a.png")
    with output_folder(tmp_path / "out"):
        assert run("purify", tmp_path / "in", "-o", tmp_path / "out", "--purifier", tiny_weights) == 2
    assert "is at work there" in capsys.readouterr().err


def test_purify_draws_the_same_again_with_a_seed_only(image_file: Writer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        image_file(f"in/{name}")

    def made(folder: str, *options: str) -> list[bytes]:
        out = tmp_path / folder
        assert run("purify", tmp_path / "in", "-o", out, "--purifier", "resize-pad", *options) == 0
        return [(out / name).read_bytes() for name in ("a.png", "b.png")]

    first = made("first", "--seed", "3")
    assert made("second", "--seed", "3") == first
    (tmp_path / "second" / "b.png").unlink()
    assert made("second", "--seed", "3", "--resume") == first
    assert made("other", "--seed", "4") != first
    assert len({tuple(made(f"unknown-{i}")) for i in range(4)}) > 1


def test_purify_from_standard_input_to_standard_output(image_file: Writer, tiny_weights: str) -> None:
    source = image_file("a.png", mode="L").read_bytes()
    command = [sys.executable, "-m", "comdefend", "purify", "-", "--output", "-", "--purifier", tiny_weights]
    done = subprocess.run(command, input=source, capture_output=True, check=True)
    image = Image.open(io.BytesIO(done.stdout))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (12, 9))


def test_tiff_can_be_written_to_a_pipe(image_file: Writer, tiny_weights: str) -> None:
    command = [sys.executable, "-m", "comdefend", "purify", "-", "-o", "-", "--format", "tiff"]
    done = subprocess.run(
        [*command, "--purifier", tiny_weights], input=image_file("a.png").read_bytes(), capture_output=True
    )
    assert done.returncode == 0
    assert Image.open(io.BytesIO(done.stdout)).format == "TIFF"


def test_purify_to_jpeg_warns_that_it_is_another_defence(
    image_file: Writer, tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("purify", image_file("a.png"), "-o", tmp_path / "b.jpg", "--purifier", tiny_weights) == 0
    assert "defence of its own" in capsys.readouterr().err


def test_evaluate_writes_a_report_and_json(
    tmp_path: Path, tiny_weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))\n"
    )
    code = run(
        "evaluate", "--classifier", f"{tmp_path}/net.py:make", "--data", "sample:cifar10",
        "--defences", tiny_weights, "--defences", "none+none", "--attacks", "fgsm", "--epsilons", "4,8",
        "--protocol", "fixed", "--limit", 10, "--output", tmp_path / "report", "--json",
    )  # fmt: skip
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    written = read_results(tmp_path / "report" / "results.json")
    assert printed["results"] == json.loads(json.dumps([asdict(result) for result in written]))
    assert printed["request"]["attacks"] == ["fgsm"]
    assert len(printed["results"]) == 3 * 3
    assert (printed["checks"], printed["notes"]) == ([], [])
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_wrong_request_loses_nothing_of_what_it_would_replace(tmp_path: Path) -> None:
    (tmp_path / "finished.jsonl").write_text("")
    words = ["evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10"]
    assert run(*words, "--attacks", "fgms", "--overwrite", "--output", tmp_path) == 2
    words[2] = "cifar10-resnet8"
    assert run(*words, "--overwrite", "--output", tmp_path) == 2
    assert (tmp_path / "finished.jsonl").exists()


def test_evaluate_replaces_an_evaluation_only_when_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10", "--limit", 2,
        "--defences", "gaussian", "--attacks", "fgsm", "--protocol", "fixed", "--output", tmp_path,
    ]  # fmt: skip
    assert run(*words, "--epsilons", "8/255") == 0
    before = (tmp_path / "results.json").read_bytes()
    assert run(*words) == 2
    assert "holds an evaluation: --resume goes on with it, --overwrite begins anew" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before
    assert run(*words, "--epsilons", "4", "--overwrite") == 0
    found = read_results(tmp_path / "results.json")
    budgets = {r.threat_model.epsilon for r in found if r.threat_model}
    assert budgets == {4 / 255}


def test_evaluate_brings_photographs_to_one_size(
    image_file: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_file("photos/cat/a.png", size=(40, 30))
    image_file("photos/dog/b.png", size=(30, 50))
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", tmp_path / "photos",
        "--defences", "gaussian", "--attacks", "none", "--output", tmp_path / "report",
    ]  # fmt: skip
    assert run(*words) == 2
    assert "--size" in capsys.readouterr().err
    assert run(*words, "--size", 32) == 0
    results = read_results(tmp_path / "report" / "results.json")
    assert all(result.n == 2 and result.data.endswith("at 32x32") for result in results)


def test_evaluate_resumes_with_the_same_code_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.py"
    code = (
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return +images.flatten(1)[:, :10]\n"
    )
    words = [
        "evaluate", "--classifier", f"{net}:Net", "--data", "sample:cifar10", "--defences", "gaussian",
        "--attacks", "fgsm,square:queries=2", "--knowledge", "gray-box,black-box", "--epsilons", 8,
        "--limit", 40, "--output", tmp_path / "report", "--resume",
    ]  # fmt: skip
    found = []
    for text in (code, code, code.replace("+images", "- images")):
        net.write_text(text)
        assert run(*words) == 0
        found.append(read_results(tmp_path / "report" / "results.json"))
        assert ("all was run anew" in capsys.readouterr().out) == (len(found) == 3)
    assert found[0] == found[1]
    prints = [{r.fingerprint for r in results if r.attack != "worst case"} for results in found]
    assert prints[1].isdisjoint(prints[2])
    assert found[1][0].right != found[2][0].right


def test_evaluate_goes_on_within_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comdefend.evaluation.store.MIN_SECONDS", 0.0)
    attacked: list[int] = []
    made = FGSM.run

    def interrupted(attack: FGSM, *rest: Any) -> Any:
        attacked.append(1)
        if len(attacked) == 2:
            raise KeyboardInterrupt
        return made(attack, *rest)

    monkeypatch.setattr(FGSM, "run", interrupted)
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10", "--limit", 3,
        "--defences", "gaussian", "--attacks", "fgsm", "--epsilons", 8, "--protocol", "fixed",
        "--batch", 1, "--examples", 0, "--output", tmp_path,
    ]  # fmt: skip
    assert run(*words) != 0
    assert len(list((tmp_path / "batches").iterdir())) == 1
    assert run(*words, "--resume") == 0
    assert len(attacked) == 4  # the one that was interrupted, too
    assert not (tmp_path / "batches").exists()


def test_evaluate_makes_no_check_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an evaluation was interrupted in its checks, too: each is there once."""
    made: list[str] = []
    cheap = dict(list(checks.items())[:6])
    for name, check in cheap.items():

        def noted(probe: Any, name: str = name, check: Any = check) -> Any:
            lines = list(check.run(probe))
            made.extend(line.name for line in lines)
            return lines

        cheap[name] = replace(check, run=noted)
    monkeypatch.setattr("comdefend.evaluation.checks.checks", cheap)
    folder = tmp_path / "report"
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10", "--limit", 2,
        "--defences", "gaussian", "--attacks", "fgsm", "--knowledge", "white-box", "--epsilons", 8,
        "--examples", 0, "--output", folder,
    ]  # fmt: skip
    assert run(*words) == 0
    finished = json.loads((folder / "checks.json").read_text())
    assert made == [line["name"] for line in finished] != []
    made.clear()
    assert run(*words, "--resume") == 0
    (folder / "checks.json").unlink()
    (folder / "finished.jsonl").write_text("".join(json.dumps({"check": line}) + "\n" for line in finished))
    assert run(*words, "--resume") == 0
    assert made == []
    assert json.loads((folder / "checks.json").read_text()) == finished
    assert not (folder / "finished.jsonl").exists()
    (folder / "finished.jsonl").write_text("damaged\n")
    assert run(*words, "--resume") == 2
    assert run(*words, "--overwrite") == 0
    assert json.loads((folder / "checks.json").read_text()) == finished
    assert len(made) == len(finished)


def test_evaluate_plans_without_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate", "--classifier", "cifar10-resnet9-plain", "--data", "sample:cifar10", "--limit", 20,
        "--attacks", "fgsm,cw", "--knowledge", "gray-box,white-box", "--plan", "--output", tmp_path / "r",
    ]  # fmt: skip
    assert run(*words, "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    titles = [one["scenario"] for one in planned["scenarios"]]
    assert titles[0] == "clean"
    assert "white-box: cw, minimal, unlimited l2, identity" in titles
    assert planned["seconds"] > planned["checks"] > 0
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "About" in shown
    assert "checks of the evaluation" in shown
    assert not (tmp_path / "r").exists()


def test_train_then_purify_with_what_was_trained(
    image_file: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["data=sample:cifar10", "steps=2", "interval=1", "batch=2", "crop=8", "validation_images=2"]
    assert run("train", "cifar10", *settings, "--output", tmp_path / "run", "--device", "cpu") == 0
    assert "weights.safetensors" in capsys.readouterr().out
    weights = f"comdefend:weights={tmp_path}/run/weights.safetensors"
    assert run("purify", image_file("a.png"), "-o", tmp_path / "b.png", "--purifier", weights) == 0
    assert run("train", "cifar10", *settings, "--output", tmp_path / "run") == 2
    assert "holds a run already" in capsys.readouterr().err


def test_convert_writes_weights_that_purify(shared: Path, tmp_path: Path) -> None:
    official = shared / "official"
    target = tmp_path / "theirs.safetensors"
    assert run("convert", official / "enc_mnist.npy", official / "dec_mnist.npy", "--output", target) == 0
    facts, _ = zoo.read(str(target), kind="purifier")
    assert facts.architecture["bits"] == 4
    assert run("convert", official / "enc_mnist.npy", official / "dec_mnist.npy", "--output", target) == 2


def test_models_lists_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)] == zoo.names()
    assert run("models") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in zoo.names())
    assert "dB PSNR" in shown
    assert "% accuracy" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["purify", "gone.png", "-o", "out.png"], "'gone.png': there is no such file"),
        (["purify", "gone.png"], "--output"),
        (["train", "cifar11"], "there is no recipe 'cifar11'"),
        (["evaluate", "--classifier", "x", "--data", "sample:cifar10"], "no weights named 'x'"),
        (
            ["evaluate", "--classifier", "x", "--data", "y", "--knowledge", "psychic"],
            "no knowledge 'psychic'",
        ),
        (["evaluate", "--classifier", "x", "--data", "y", "--strict"], "needs --knowledge white-box"),
        (
            ["evaluate", "--classifier", "x", "--data", "y", "--epsilons", "a"],
            "epsilon 'a' is no number in units of 1/255",
        ),
        (["convert", "a.npy", "b.npy", "--output", "c.bin"], "must end in .safetensors"),
        (["convert", "a.npy", "b.npy", "--output", "c.safetensors"], "there is no such file"),
        (["purfy"], "No such command"),
        (["evaluate", "--classifier", "here.png", "--data", "sample:cifar10"], "ends in .safetensors"),
        (["evaluate", "--classifier", "x", "--data", "y", "--output", "here.png"], "it is a file"),
        (["purify", "../text.png", "-o", "out.png", "--purifier", "none"], "is not an image"),
        (["train", "folder"], "give data=PATH"),
        (["purify", "", "-o", "out"], "an empty name"),
        (["purify", ".", "-o", "here.png/out"], "'here.png' is a file"),
        (["purify", "here.png", "-o", "here.png/a.png"], "it is a file"),
        (["purify", "here.png", "-o", "/proc/out"], "cannot be a folder"),
        (["purify", ".", "-o", "out", "--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["train", "cifar10", "steps=["], "the value is no YAML"),
        (["evaluate", "--classifier", "x", "--data", "y", "--epsilons", ","], "epsilons is empty"),
        (
            ["evaluate", "--classifier", "x", "--data", "y", "--epsilons", "0.03"],
            "epsilon 0.03 is in units of 1/255, and so nearly nothing: write 8, or 8/255",
        ),
        (
            [
                "evaluate",
                "--classifier",
                "x",
                "--data",
                "y",
                "--knowledge",
                "white-box",
                "--strict",
                "--no-checks",
            ],
            "needs --knowledge white-box and --checks",
        ),
        (["evaluate", "--classifier", "x", "--data", "y", "--output", "/dev/null"], "cannot be a folder"),
        (["purify", ".", "-o", "out", "--purifier", "none", "--dtype", "int3"], "dtype is 'int3'"),
        (["demo", "--limit", "0"], "limit"),
    ],
)
def test_wrong_requests_exit_with_2_and_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.new("RGB", (3, 3)).save(tmp_path / "work" / "here.png")
    (tmp_path / "text.png").write_text("no image")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["here.png"]


def test_work_that_fails_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WorkError("the work failed")

    monkeypatch.setattr(zoo, "names", fail)
    assert run("models") == 1
    assert "the work failed" in capsys.readouterr().err


def test_an_interrupt_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "names", interrupt)
    assert run("models") == 1


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    assert run("--threads", 3, "models") == 0
    assert chosen == [3]


def test_json_is_all_that_is_printed_whatever_somebodys_code_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "print('imported')\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        print('made')\n"
        "    def forward(self, images):\n"
        "        print('asked')\n"
        "        return images.flatten(1)[:, :10]\n"
        "class Loud(nn.Module):\n"
        "    def forward(self, images):\n"
        "        print('purifying')\n"
        "        return images\n"
    )
    words = [
        "evaluate", "--classifier", f"{tmp_path}/net.py:Net", "--defences", f"{tmp_path}/net.py:Loud",
        "--data", "sample:cifar10", "--limit", 3, "--attacks", "fgsm", "--knowledge", "gray-box,white-box",
        "--no-checks", "--json", "--output", tmp_path / "report",
    ]  # fmt: skip
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert {r["defence"] for r in json.loads(printed.out)["results"]} == {"none", f"{tmp_path}/net.py:Loud"}
    for said in ("imported", "made", "asked", "purifying"):
        assert said in printed.err
