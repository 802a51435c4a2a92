"""The pages for people: links lead somewhere, the README stays short, and names in them exist."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("config/*.md"),
    *ROOT.glob(".github/**/*.md"),
]  # fmt: skip
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    heads = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_readme_is_a_screen_and_a_half():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80


def test_every_page_of_the_docs_is_reached_from_another_one():
    linked = set()
    for page in PAGES:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            linked.add((page.parent / link.partition("#")[0]).resolve())
    folders = {path for path in linked if path.is_dir()}
    pages = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
    lost = [str(page) for page in pages if page.resolve() not in linked and page.resolve().parent not in folders]
    assert not [page for page in lost if not page.endswith("index.md")]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_holds_the_reference(tmp_path):
    pytest.importorskip("mkdocs", reason="the site's packages are not installed: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="the site's packages are not installed: pip install -e '.[docs]'")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in (tmp_path / "reference/config/index.html").read_text(encoding="utf-8")
    assert "--allow-unsandboxed-code" in (tmp_path / "reference/commands/index.html").read_text(encoding="utf-8")
