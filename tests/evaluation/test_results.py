"""Records, intervals and files of results."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comdefend.errors import RequestError
from comdefend.evaluation import (
    Result,
    ThreatModel,
    paired_difference,
    read_results,
    wilson,
    write_results,
)
from comdefend.evaluation.results import pack, unpack


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_in_range(case: tuple[int, int]) -> None:
    correct, n = case
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n
    assert correct / n <= high <= 1


def test_wilson_matches_published_values() -> None:
    """Newcombe (1998), table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def one(right: str, **settings: object) -> Result:
    """`right` has a 1 for each image that is."""
    mask = torch.tensor([image == "1" for image in right])
    found = Result("d", "c", "none", "none", len(right), int(mask.sum()), right=pack(mask))
    return replace(found, **settings)  # type: ignore[arg-type]


def test_a_paired_difference_counts_the_images_that_differ() -> None:
    better = one("1" * 9 + "0" + "1" * 10 + "0" * 20)
    worse = one("0" * 9 + "1" + "1" * 10 + "0" * 20)
    gained, (low, high) = paired_difference(better, worse)
    assert gained == pytest.approx(8 / 40)
    # Agresti and Min's formula by hand: (9 - 1) / 42, and the root of (9 + 1 + 1) - 8 * 8 / 42 over 42.
    assert (low, high) == pytest.approx((8 / 42 - 1.96 * 3.0783 / 42, 8 / 42 + 1.96 * 3.0783 / 42), abs=1e-4)
    assert paired_difference(worse, better)[1] == pytest.approx((-high, -low))
    # Two accuracies of 47.5 % and 27.5 % on forty images have intervals that overlap.
    assert low > 0
    assert wilson(better.correct, 40)[0] < wilson(worse.correct, 40)[1]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=400))
def test_the_interval_of_a_difference_holds_it_and_stays_in_range(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (one("".join(str(int(pair[k])) for pair in pairs)) for k in (0, 1))
    gained, (low, high) = paired_difference(first, second)
    assert gained == pytest.approx(first.accuracy - second.accuracy, abs=1e-6)
    assert -1 <= low <= gained <= high <= 1
    assert low < high


def test_a_difference_of_random_defences_is_of_their_shares() -> None:
    shares = torch.tensor([1, 0.5, 0.25, 0])
    random = replace(one("1100"), right=pack(shares, 4), stochastic=True)
    gained, (low, high) = paired_difference(random, one("0000"))
    assert gained == pytest.approx(1.75 / 4)
    assert (low + high) / 2 == pytest.approx(1.75 / 6)
    # The squares of the shares, and one for what is added.
    assert (high - low) / 2 == pytest.approx(
        1.96 * (1 + 0.25 + 0.0625 + 1 - 1.75**2 / 6) ** 0.5 / 6, abs=1e-4
    )


@pytest.mark.parametrize("other", [one("11"), one("111", data="e"), one("111", seed=1)])
def test_a_difference_of_other_images_is_refused(other: Result) -> None:
    with pytest.raises(ValueError, match="the same images"):
        paired_difference(one("110"), other)


def test_a_difference_of_results_without_their_images_is_refused() -> None:
    with pytest.raises(ValueError, match="which images were right"):
        paired_difference(one("110"), replace(one("110"), right=""))


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    results = [
        Result("d", "c", "none", "none", 10, 9, interval=wilson(9, 10)),
        Result(
            "d", "c", "comdefend", "fgsm", 10, 7, ThreatModel("linf", 8 / 255), "minimal", {"steps": 60},
            fooled=8, distance=0.01, interval=wilson(7, 10), software={"torch": "2"}, hardware={"cores": 2},
        ),
    ]  # fmt: skip
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results


def test_a_file_says_once_where_its_results_come_from(tmp_path: Path) -> None:
    first = one("110", interval=wilson(2, 3), commit="abc", seed=7)
    made = [replace(first, defence=name) for name in ("a", "b", "a")]
    elsewhere = replace(made[0], commit="def")
    write_results(tmp_path / "r.json", [*made, elsewhere])
    text = (tmp_path / "r.json").read_text()
    assert (text.count('"abc"'), text.count('"def"'), text.count('"interval"')) == (1, 1, 0)
    assert read_results(tmp_path / "r.json") == [*made, elsewhere]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '[{"a": 1}]',
        "[1]",
        "[" * 100_000,
        '{"format": 1, "provenance": [], "subjects": [], "results": []}',
        '{"format": 2, "provenance": [], "subjects": [], "results": [{"made": 0, "of": 0}]}',
    ],
)
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(RequestError, match="is no file of results"):
        read_results(tmp_path / "r.json")


def test_budgets_are_written_for_people() -> None:
    assert ThreatModel("linf", 8 / 255).budget() == "8/255"
    assert ThreatModel("l2", 0.5).budget() == "0.5"
    assert ThreatModel("l2", None).budget() == "unlimited"


@pytest.mark.parametrize("draws", [1, 2, 20, 35])
def test_shares_survive_their_file(draws: int) -> None:
    for n in (1, 3, 8, 37):
        shares = torch.randint(0, draws + 1, (n,)) / draws
        torch.testing.assert_close(unpack(pack(shares, draws), n), shares)
