"""Pictures of runs in the docs are made by a command."""

import importlib.util
import shutil
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs/pictures.py")
assert spec and spec.loader
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)


def results(folder: Path) -> Path:
    """Results of a run with one figure in both papers' folders."""
    for paper in ("workshop", "arxiv"):
        (folder / "figures" / paper).mkdir(parents=True)
        (folder / "figures" / paper / "table1.png").write_text(paper)
    (folder / "report.html").write_text("<h1>The answer</h1>")
    return folder


def test_a_picture_becomes_the_figure_of_its_name(tmp_path, capsys):
    shown = tmp_path / "shown"
    shown.mkdir()
    run = results(tmp_path / "toy")
    with pytest.raises(FileNotFoundError, match=r"has no picture of toy: make an empty toy-<figure>\.png there"):
        pictures.renew(run, shown)
    (shown / "toy-table1.png").touch()
    (shown / "other-table1.png").touch()
    assert pictures.renew(run, shown) == [shown / "toy-table1.png"]
    assert (shown / "toy-table1.png").read_text() == "arxiv"
    assert (shown / "other-table1.png").read_text() == ""
    (shown / "toy-table7.png").touch()
    with pytest.raises(FileNotFoundError, match=r"figures has no table7\.png"):
        pictures.renew(run, shown)


@pytest.mark.slow
def test_the_page_of_a_run_is_shown_as_a_browser_does(tmp_path):
    if not any(map(shutil.which, pictures.BROWSERS)):
        pytest.skip("no browser here")
    (tmp_path / "toy-report.png").touch()
    [picture] = pictures.renew(results(tmp_path / "toy"), tmp_path)
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", head[16:]) == (1280, 1000)


def test_without_a_browser_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install one of chromium"):
        pictures.screenshot(tmp_path / "page.html", tmp_path / "out.png")
