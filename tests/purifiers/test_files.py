"""Files through a purifier: planning, structure, overwriting, failures among many."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comdefend import purify_image
from comdefend.atomic import output_folder
from comdefend.errors import RequestError
from comdefend.image import Picture, read_picture
from comdefend.purifiers import ComDefendPurifier, Identity
from comdefend.purifiers.files import plan, purify_picture, run
from tests.conftest import tiny_model

Writer = Callable[..., Path]


def test_one_file_becomes_one_file(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    source = image_file("in.jpg")
    purify_image(source, tmp_path / "out.png", purifier=tiny_purifier)
    expected = tiny_purifier(read_picture(source).pixels)
    written = read_picture(tmp_path / "out.png").pixels
    torch.testing.assert_close(written, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_an_existing_output_is_not_overwritten_unless_told(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    source, target = image_file("in.png"), tmp_path / "out.png"
    target.write_bytes(b"mine")
    with pytest.raises(RequestError, match="exists already"):
        purify_image(source, target, purifier=tiny_purifier)
    assert target.read_bytes() == b"mine"
    purify_image(source, target, purifier=tiny_purifier, overwrite=True)
    assert read_picture(target).pixels.shape == (1, 3, 9, 12)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (13, 2)])
def test_every_kind_of_image_keeps_its_kind(
    mode: str, size: tuple[int, int], tmp_path: Path, image_file: Writer, tiny_purifier: ComDefendPurifier
) -> None:
    if mode == "I;16":
        source = tmp_path / "in.png"
        Image.fromarray(np.full(size[::-1], 40000, dtype=np.uint16)).save(source)
    else:
        source = image_file("in.png", mode=mode, size=size)
    purify_image(source, tmp_path / "out.png", purifier=tiny_purifier)
    before, after = read_picture(source), read_picture(tmp_path / "out.png")
    assert before.pixels.shape == after.pixels.shape
    assert before.deep == after.deep
    if before.alpha is not None:
        assert np.array_equal(before.alpha, after.alpha)  # type: ignore[arg-type]


def test_a_grey_purifier_refuses_colour() -> None:
    with pytest.raises(RequestError, match="takes grey images"):
        purify_picture(Picture(torch.rand(1, 3, 4, 4)), ComDefendPurifier(tiny_model(channels=1)))


def test_a_folder_keeps_its_structure(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    for name in ("in/a.jpg", "in/deep/er/b.PNG", "in/deep/c.webp"):
        image_file(name)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    outcome = run(plan([str(tmp_path / "in")], str(tmp_path / "out")), tiny_purifier)
    assert (outcome.written, outcome.failures, outcome.ignored) == (3, [], {".txt": 1})
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert written == {"a.png", "deep/er/b.png", "deep/c.png"}


def test_files_that_would_share_a_name_keep_their_suffix(image_file: Writer, tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/b.png"):
        image_file(name)
    planned = plan([str(tmp_path / "in")], str(tmp_path / "out"), format="webp")
    names = [job.target.name for job in planned.jobs if job.target]
    assert names == ["a.jpg.webp", "a.png.webp", "b.webp"]


def test_an_output_folder_inside_the_input_is_not_purified_again(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    image_file("in/a.png")
    target = str(tmp_path / "in" / "purified")
    run(plan([str(tmp_path / "in")], target), tiny_purifier)
    assert len(plan([str(tmp_path / "in")], target).jobs) == 1


@pytest.mark.parametrize("output", [".", "out/", "in"])
def test_the_output_may_be_around_beside_or_in_place_of_the_input(
    output: str, image_file: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tiny_purifier: ComDefendPurifier,
) -> None:  # fmt: skip
    image_file("in/a.png")
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "in" / "a.png").read_bytes()
    assert run(plan(["in"], output), tiny_purifier, overwrite=True).written == 1
    assert ((tmp_path / "in" / "a.png").read_bytes() != before) == (output == "in")


def test_a_failure_of_any_kind_stops_only_its_file(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    image_file("in/wide.png", size=(17000, 1))
    image_file("in/small.png")
    outcome = run(plan([str(tmp_path / "in")], str(tmp_path / "out"), format="webp"), tiny_purifier)
    assert outcome.written == 1
    assert "cannot be written as WEBP" in outcome.failures[0][1]


def test_a_corrupt_file_among_many_is_reported_and_the_others_done(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    for number in range(5):
        image_file(f"in/{number}.png")
    (tmp_path / "in" / "2.png").write_bytes(b"broken")
    outcome = run(plan([str(tmp_path / "in")], str(tmp_path / "out")), tiny_purifier)
    assert outcome.written == 4
    ((source, reason),) = outcome.failures
    assert source.endswith("2.png")
    assert "not an image" in reason
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_existing_outputs_stop_a_batch_before_it_starts_or_are_skipped(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    for number in range(3):
        image_file(f"in/{number}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "2.png").write_bytes(b"mine")
    planned = plan([str(tmp_path / "in")], str(tmp_path / "out"))
    with pytest.raises(RequestError, match=r"2\.png' exists already; --overwrite"):
        run(planned, tiny_purifier)
    assert len(list((tmp_path / "out").iterdir())) == 1
    outcome = run(planned, tiny_purifier, skip_existing=True)
    assert (outcome.written, outcome.skipped) == (2, 1)
    assert (tmp_path / "out" / "2.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["gone.png"], "out.png", "no such file"),
        (["-", "a.png"], "out", "cannot be mixed"),
        (["a.png", "b.png"], "out.png", "give a folder"),
        (["."], "-", "give a folder"),
        (["-"], "out.gif", "suffix must be one of"),
        (["a.png"], "out.gif", "suffix must be one of"),
        (["empty"], "out", "holds no images"),
    ],
)
def test_unclear_requests_are_refused(
    inputs: list[str],
    output: str,
    message: str,
    image_file: Writer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    image_file("a.png")
    image_file("b.png")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=message):
        plan(inputs, output)


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="format is 'gif'; it must be one of png"):
        plan(["."], "out", format="gif")


def test_links_are_followed_once_and_each_image_is_done_or_named(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    for name in ("in/a[1].png", "in/b.jpg", "other/c.png"):
        image_file(name)
    (tmp_path / "in" / "b.jpg").rename(tmp_path / "in" / "b.jfif")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    Image.new("L", (4, 4)).save(tmp_path / "in" / "d.gif")
    outcome = run(plan([str(tmp_path / "in")], str(tmp_path / "out")), tiny_purifier)
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert written == {"a[1].png", "b.png", "linked/c.png"}
    reasons = {Path(source).name: reason for source, reason in outcome.failures}
    assert reasons.keys() == {"broken.png", "d.gif"}
    assert "no such file" in reasons["broken.png"]
    assert "not an image that can be read (PNG, JPEG" in reasons["d.gif"]


@pytest.mark.parametrize("output", ["file", "file/a.png", "file/below", "/proc/a.png", "/proc/below"])
def test_an_output_that_cannot_be_is_refused_before_any_work(
    output: str, image_file: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_file("a.png")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="cannot be a folder"):
        plan(["a.png"], output)
    if output.endswith(".png"):
        with pytest.raises(RequestError, match="cannot be a folder"):
            purify_image("a.png", output, purifier="gone")


def test_a_folder_where_a_file_must_be_is_refused_before_any_work(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    image_file("in/a.png")
    image_file("in/b.png")
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"b\.png' is a folder"):
        run(plan([str(tmp_path / "in")], str(tmp_path / "out")), tiny_purifier, overwrite=True)
    assert not (tmp_path / "out" / "a.png").exists()


def test_what_another_process_wrote_meanwhile_stays(image_file: Writer, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.png"

    class Slow(Identity):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            target.write_bytes(b"another's")
            return images

    image_file("in/a.png")
    outcome = run(plan([str(tmp_path / "in")], str(target.parent)), Slow())
    assert (outcome.written, outcome.refused) == (0, 1)
    assert "another process wrote it meanwhile" in outcome.failures[0][1]
    assert target.read_bytes() == b"another's"


def test_two_runs_in_one_folder_at_once_are_refused(
    image_file: Writer, tmp_path: Path, tiny_purifier: ComDefendPurifier
) -> None:
    image_file("in/a.png")
    with output_folder(tmp_path / "out"), pytest.raises(RequestError, match="is at work there"):
        run(plan([str(tmp_path / "in")], str(tmp_path / "out")), tiny_purifier, overwrite=True)
