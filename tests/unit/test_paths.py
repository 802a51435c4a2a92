"""Paths under results/ are written and read by one pattern."""

import pytest

from transformer2 import paths


def test_a_path_is_read_back_wherever_results_lies():
    fields = {"run": "pocket", "model": "m.1-x", "adapter": "svf-gsm8k-last", "task": "math", "seed": "0"}
    path = paths.SCORES.of(**fields)
    assert path == "results/pocket/scores/m.1-x/svf-gsm8k-last/math/seed0.json"
    assert paths.SCORES.read(path) == paths.SCORES.read(f"/somewhere/else/{path}") == fields


def test_no_place_is_another_one():
    places = [place for place in vars(paths).values() if isinstance(place, paths.Place)]
    fields = {name: f"{name}1" for place in places for name in place.read(place.pattern)}
    for place in places:
        path = place.of(**fields)
        assert [other for other in places if other._expression.fullmatch(path)] == [place]


@pytest.mark.parametrize("path", ["results/pocket/scores/m/base/math/seed0.jsonl", "scores/m/base/math/seed0.json", ""])
def test_another_path_is_refused_in_one_line(path):
    with pytest.raises(ValueError, match="is not a path of the form results/{run}/scores/"):
        paths.SCORES.read(path)


def test_a_missing_field_is_named():
    with pytest.raises(KeyError, match="seed"):
        paths.SCORES.of(run="pocket", model="m", adapter="base", task="math")


def test_data_are_rows_and_their_pictures_and_nothing_else_of_a_run():
    rows, pictures = (f"results/r/data/textvqa/test{ending}" for ending in (".jsonl", ".images.zip"))
    assert paths.is_data(rows) and paths.is_data(f"/elsewhere/{pictures}")
    assert not paths.is_data("results/r/scores/m/base/gsm8k/seed0.json") and not paths.is_data("data/test.jsonl")
