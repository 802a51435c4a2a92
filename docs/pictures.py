"""Renews the pictures of a finished run in `docs/runs/`.

    python docs/pictures.py results/pocket

Every `docs/runs/<run>-<figure>.png` that is there becomes the run's figure of that name, and `<run>-report.png` what
Chromium shows of its page, 1280 x 1000. An empty file of such a name asks for a new picture.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PICTURES = Path(__file__).parent / "runs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 1000


def renew(run: Path, pictures: Path = PICTURES) -> list[Path]:
    """Makes the pictures of a run again.

    Args:
        run: folder of its results, `results/<run>`.
        pictures: folder of the pictures.

    Returns:
        The pictures.

    Raises:
        FileNotFoundError: there is no picture of the run, or the run has no such figure.
    """
    found = sorted(pictures.glob(f"{run.name}-*.png"))
    if not found:
        raise FileNotFoundError(f"{pictures} has no picture of {run.name}: make an empty {run.name}-<figure>.png there")
    for picture in found:
        figure = picture.name.removeprefix(f"{run.name}-")
        if figure == "report.png":
            screenshot(run / "report.html", picture)
            continue
        drawn = sorted((run / "figures").rglob(figure))  # arxiv before workshop
        if not drawn:
            raise FileNotFoundError(f"{run}/figures has no {figure}: remove {picture}, or finish the run")
        shutil.copyfile(drawn[0], picture)
    return found


def screenshot(page: Path, out: Path) -> None:
    """What a browser without a window shows of a page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"no browser for {out}: install one of {', '.join(BROWSERS)}")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    command = [browser, *options, f"--screenshot={out.resolve()}", page.resolve(strict=True).as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(arguments: Sequence[str]) -> None:
    for run in arguments:
        try:
            print(*renew(Path(run)), sep="\n")
        except FileNotFoundError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
