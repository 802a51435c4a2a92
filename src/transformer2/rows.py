"""Rows of tasks in files: read and checked, or written; pictures lie in an archive beside them.

An archive is a zip file without compression. A picture is in it once, under a name made from its content, so
the checksum of the rows covers their pictures.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model

from transformer2.checksums import verified
from transformer2.provenance import atomic_path
from transformer2.tasks.base import Picture, Row, Task

MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write before UTF-8."""
LONGEST_VALUE = 60
"""Characters of a wrong value that are shown."""

Check = Callable[[Row, str], None]


def read_rows(task: Task, path: Path, pictures: bool = True) -> list[Row]:
    """The checked rows of a file, each with its `item` (made of its place, if it has none) and its picture, unread.

    Pictures are those of the archive beside the file; without one, `image` has paths of files beside it or below.
    Without `pictures` they are not looked at: scores need none.

    Raises:
        ValueError: no rows, a row that does not fit the task, an item that is there twice, a missing picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    check, shown = checker(task), pictures and "image" in task.columns
    archive = _open_archive(picture_archive(path)) if shown else None
    rows: dict[str, Row] = {}
    for where, row in json_lines(verified(path)):
        check(row, where)
        row = {"item": f"{task.name}/{path.stem}/{len(rows)}"} | row
        if row["item"] in rows:
            raise ValueError(f"{where}: a row before it has the same item, {row['item']}; give every row its own")
        if shown:
            row["image"] = _stored(row["image"], path, archive, where)
        rows[row["item"]] = row
    if not rows:
        raise ValueError(f"{path} has no rows")
    return list(rows.values())


def write_rows(path: Path, rows: Iterable[Row], pictures: bool = False) -> int:
    """Writes rows one by one, and if they have `pictures` (the bytes of files), the archive of these; returns how many
    rows. Files are whole or not there."""
    n = 0
    with ExitStack() as stack:
        file = stack.enter_context(open(stack.enter_context(atomic_path(path)), "w", encoding="utf-8"))
        if pictures:
            temporary = stack.enter_context(atomic_path(picture_archive(path)))
            rows = _into(stack.enter_context(zipfile.ZipFile(temporary, "w")), rows)
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            n += 1
    return n


def _into(archive: zipfile.ZipFile, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with the names of their pictures, which are put into the archive."""
    names: set[str] = set()
    for row in rows:
        name = f"{sha256(row['image']).hexdigest()[:32]}.{picture_format(row['image'])}"
        if name not in names:
            entry = zipfile.ZipInfo(name)  # its time is always the same, and so are the bytes of the archive
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, row["image"])
        names.add(name)
        yield row | {"image": name}


def json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Place and object of each line of a JSON-lines file, plain or gzip, one by one; blank lines and a byte order mark
    are passed over.

    Raises:
        ValueError: a line is not UTF-8, not JSON or no object; the gzip file is cut off or corrupt.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(MARK) if number == 1 else line
                if line.strip():
                    yield f"{path}, line {number}", _object(line, f"{path}, line {number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}, after line {number}): fetch it again") from None


def _object(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line.decode())
        if rb"\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be written again
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 (byte {error.start + 1} of the line): save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError(f"{where} has half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None
    except RecursionError:
        raise ValueError(f"{where} is not JSON that can be read (nested too deep)") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({getattr(error, 'msg', error)})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no JSON object but {_shown(value)}: write one {{column: value, ...}} a line")
    return value


def checker(task: Task) -> Check:
    """A function that checks a row of a task, given its place, against the types of the task's columns.

    The check raises ValueError: one line that names place, column and value.
    """
    columns: dict[str, Any] = {name: (kind, ...) for name, kind in task.columns.items()}
    model = create_model("Row", **columns, item=(str, ""))

    def check(row: Row, where: str) -> None:
        try:
            model.model_validate(row, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{where}: {_wrong(first, row)}; correct the row, or remove it") from None

    return check


def _wrong(error: Any, row: Row) -> str:
    """What is wrong with a row of data: values as JSON, as the file has them (`config.mistakes` is for settings)."""
    column, *inside = error["loc"]
    if error["type"] == "missing":
        return f"no column {'.'.join(error['loc'])}; it has {', '.join(error['input']) or 'none'}"
    keys = row[column] if isinstance(row[column], dict) else ()  # else a part of `inside` may name a type of a union
    place = column + "".join(f"[{part}]" for part in inside if isinstance(part, int) or part in keys)
    rule = re.sub(r"^(Value error, |\w+ )(?=should)", "", error["msg"])
    return f"column {place} {rule}, and is {_shown(error['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def picture_archive(path: Path) -> Path:
    """The archive of the pictures of a file of rows."""
    return path.with_suffix(".images.zip")


def _open_archive(path: Path) -> zipfile.Path | None:
    if not path.exists():
        return None
    try:
        return zipfile.Path(zipfile.ZipFile(verified(path)))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no archive of pictures ({error}): make the data again") from None


def _stored(name: Any, path: Path, archive: zipfile.Path | None, where: str) -> Picture:
    if not isinstance(name, str):
        raise ValueError(f"{where}: column image should name a picture, and is {_shown(name)}")
    if archive is None:
        try:
            return picture_file(path.parent, name, where)
        except ValueError as error:
            raise ValueError(f"{error}, and no archive {picture_archive(path).name}") from None
    if not (archive / name).is_file():
        raise ValueError(f"{where}: no picture {name} in {picture_archive(path)}")
    return archive / name


def picture_file(folder: Path, name: str, where: str) -> Path:
    """The file of that name in a folder or below it.

    Raises ValueError if there is none, or if it lies elsewhere, symbolic links followed.
    """
    file = folder / name
    try:
        inside, there = file.resolve().is_relative_to(folder.resolve()), file.is_file()
    except (OSError, ValueError):  # no name that a file can have
        inside, there = True, False
    if not inside:
        raise ValueError(f"{where}: picture {name} is outside of {folder}; put pictures into that folder")
    if not there:
        raise ValueError(f"{where}: no picture {file}")
    return file


def picture_format(picture: bytes) -> str:
    """The format of a picture file, such as `jpeg`.

    Raises ValueError if it is no picture.
    """
    from PIL import Image  # tasks of text do without

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            return str(opened.format).lower()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"no picture that can be opened ({len(picture)} bytes, {error})") from None
