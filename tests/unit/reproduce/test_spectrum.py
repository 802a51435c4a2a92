"""What the top singular values hold: against the formula of Appendix C on matrices of known singular values."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from transformer2.report.figures.spectrum import draw
from transformer2.reproduce.frames import read_spectra, write_frame
from transformer2.reproduce.spectrum import cumulative, discussed, spectra, tops
from transformer2.svf.basis import write_basis

MODELS = {"toy": {"run": "test", "stands_in_for": "llama3-8b", "standin": True}}
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "mlp.up_proj": (64, 32)}


def matrices(layers: int = 2) -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [
        (f"model.layers.{layer}.{name}", torch.randn(shape))
        for layer in range(layers)
        for name, shape in SHAPES.items()
    ]


@pytest.fixture
def frame(tmp_path) -> pd.DataFrame:
    write_basis(matrices(), tmp_path / "basis.safetensors")
    return spectra({"toy": tmp_path / "basis.safetensors"}, MODELS)


def test_both_ratios_are_those_of_a_plain_svd(frame):
    for name, weight in matrices():
        s = torch.linalg.svdvals(weight.double()).numpy()
        layer, module = int(name.split(".")[2]), name.rpartition(".")[2]
        for row in frame.loc[(frame["module"] == module) & (frame["layer"] == layer)].to_dict("records"):
            assert row["ratio"] == pytest.approx(s[: row["r"]].sum() / s.sum(), rel=1e-5)
            assert row["variance_ratio"] == pytest.approx((s[: row["r"]] ** 2).sum() / (s**2).sum(), rel=1e-5)
            assert row["share_of_rank"] == row["r"] / len(s) and row["rank"] == len(s)


def test_every_matrix_has_the_same_r_up_to_its_own_rank(frame):
    assert frame.groupby("module")["r"].unique().map(list).to_dict() == {
        "k_proj": [1, 2, 4, 8, 16], "q_proj": [1, 2, 4, 8, 16, 32], "up_proj": [1, 2, 4, 8, 16, 32],
    }  # fmt: skip
    assert set(frame["full_rank"]) == {32}
    assert (frame.loc[frame["r"] == frame["rank"], ["ratio", "variance_ratio"]] == 1).all(axis=None)


def test_the_discussed_r_is_256_for_the_papers_models_and_the_same_share_of_others():
    assert [discussed(rank) for rank in (4096, 8192, 576, 128, 4)] == [256, 512, 36, 8, 1]
    assert tops(576) == [1, 2, 4, 8, 16, 32, 36, 64, 128, 256, 512]


def test_equal_values_hold_their_share():
    assert cumulative(np.full(4, 3.0)).tolist() == [0.25, 0.5, 0.75, 1]


@pytest.mark.slow
def test_the_picture_has_a_panel_a_type_of_matrix_twice_and_is_the_same_file_each_time(frame, tmp_path):
    for name in ("one", "two"):
        draw(frame, "toy", tmp_path / name)
    for suffix in ("svg", "png", "pdf", "csv"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    words = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", (tmp_path / "one.svg").read_text())
    assert words.count("query (rank 32)") == words.count("key (rank 16)") == words.count("MLP up (rank 32)") == 2
    assert {"r = 2 (as 256 of 4096)", "r = 16", "layer"} <= set(words)
    assert any("toy in place of llama3-8b" in line for line in words)


@pytest.mark.slow
def test_a_line_has_the_colour_of_its_r_in_every_panel(frame, tmp_path):
    draw(frame, "toy", tmp_path / "f")
    lines = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: (?:1.2|2.4)", (tmp_path / "f.svg").read_text())
    assert {colour: lines.count(colour) for colour in set(lines)} == dict.fromkeys(set(lines), 2 * len(SHAPES) + 1)


def test_an_unknown_model_is_refused_in_one_line(frame, tmp_path):
    with pytest.raises(ValueError, match="no model other"):
        draw(frame, "other", tmp_path / "f")


def test_a_frame_is_read_back_as_it_was_written(frame, tmp_path):
    write_frame(frame, tmp_path / "spectra.csv")
    pd.testing.assert_frame_equal(read_spectra(tmp_path / "spectra.csv"), frame.drop(columns="share_of_rank"))
