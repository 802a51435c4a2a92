"""Every section, table, figure and equation that the project names stands in one of the documents.

The texts come from the folder in T2_PAPER, or from ../shared/paper next to the project; without them the test skips.
"""

import re
from pathlib import Path

from conftest import ROOT

CITED = re.compile(
    r"\b(?P<kind>Section|Appendix|Table|Figure|Equation|Eq\.|Analysis)s?[ ~]"
    r"(?P<numbers>[A-Z0-9](?:\.?\d+)*(?:(?:, | and | to |, and )[A-Z]?\d+(?:\.\d+)*)*)\b"
)
MARKS = {
    "Section": r"^[#* ]*{}\**[ ]+\**[A-Z]",
    "Appendix": r"^[#* ]*{}\**[ ]+\**[A-Z]",
    "Table": r"\bTable {}[:. ]",
    "Figure": r"\b[FT]igure {}[:. ]",  # T: as the scan has the caption of one
    "Equation": r"(?:\(|\\tag\{{){}[)}}]?[,]?\$*$",
    "Eq.": r"(?:\(|\\tag\{{){}[)}}]?[,]?\$*$",
    "Analysis": r"^Analysis {}:",
}
"""What stands where a thing of that number is: a heading, a caption, the number of an equation."""
PLACES = ("src/**/*.py", "workflow/**/*.smk", "workflow/**/*.json", "workflow/**/*.rst", "docs/*.md", "config/*.yaml")
PLACES += ("paper_tables/**/*.yaml", "tests/**/*.py", "*.md", "Snakefile")


def citations(text: str) -> set[tuple[str, str]]:
    """(kind, number) of all that a text cites."""
    return {
        (match["kind"], number)
        for match in CITED.finditer(re.sub(r"\s*\n[#\s]*", " ", text))
        for number in re.split(r", and |, | and | to ", match["numbers"])
    }


def is_in(kind: str, number: str, document: str) -> bool:
    return re.search(MARKS[kind].format(re.escape(number)), document, re.MULTILINE) is not None


def test_what_is_cited_stands_in_one_of_the_texts(paper):
    texts = [(paper / name).read_text(encoding="utf-8") for name in ("arxiv.txt", "workshop.md")]
    files = [file for place in PLACES for file in ROOT.glob(place) if file.name != Path(__file__).name]
    cited = {file: citations(file.read_text(encoding="utf-8")) for file in files}
    assert sum(map(len, cited.values())) > 100
    missing = {
        f"{file.relative_to(ROOT)}: {kind} {number}"
        for file, of_file in cited.items()
        for kind, number in of_file
        if not any(is_in(kind, number, text) for text in texts)
    }
    assert not missing


def test_citations_are_read_in_every_form_and_wrong_ones_are_seen(paper):
    text = "Sections 3.2 and 3.3, (Section 3.3 C,\n    # Appendix A.4), Tables 3, 8 and 10; Eq. 1, Figure\n 12"
    assert citations(text) == {
        ("Section", "3.2"), ("Section", "3.3"), ("Appendix", "A.4"), ("Table", "3"), ("Table", "8"), ("Table", "10"),
        ("Eq.", "1"), ("Figure", "12"),
    }  # fmt: skip
    texts = [(paper / name).read_text(encoding="utf-8") for name in ("arxiv.txt", "workshop.md")]
    seen = {cited for cited in citations(text) if any(is_in(*cited, document) for document in texts)}
    assert citations(text) - seen == {("Section", "3.3"), ("Figure", "12")}
