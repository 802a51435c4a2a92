"""A stand-in for conda, for tests: the commands that Snakemake calls, and a channel that needs no network.

Conda's packages are solved and installed by py-rattler from a channel that has two: `python`, a link to the Python that
made the channel, and `pip`, its wheel. All else in an environment file is pip's, and pip gets it as it does for conda.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml
from rattler import Gateway, Subdir, install, solve

PYTHON = Path(sys.executable).resolve()
# As conda's: an environment takes the place in PATH of the one that is active, and what stands before it stays there.
ACTIVATE = """
if [ "${CONDA_SHLVL:-0}" = 0 ]; then PATH=$1/bin:$PATH; else PATH=${PATH/"$CONDA_PREFIX/bin:"/"$1/bin:"}; fi
export PATH CONDA_PREFIX=$1 CONDA_SHLVL=1
"""


def make(root: Path) -> None:
    """The stand-in in a folder of its own: `bin/conda`, `bin/activate`, and the channel that conda-forge is to it."""
    channel = root / "channels/conda-forge/noarch"
    for folder in (root / "bin", channel):
        folder.mkdir(parents=True)
    conda = root / "bin/conda"
    conda.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {root} "$@"\n')
    conda.chmod(0o755)
    (root / "bin/activate").write_text(ACTIVATE)

    version = ".".join(map(str, sys.version_info[:3]))
    python: dict[str, bytes | Path] = {
        "bin/python": PYTHON,
        "pyvenv.cfg": f"home = {PYTHON.parent}\ninclude-system-site-packages = false\n".encode(),
    }
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", root, "pip"], check=True)
    (wheel,) = root.glob("pip-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        pip: dict[str, bytes | Path] = {
            f"site-packages/{name}": archive.read(name) for name in archive.namelist() if not name.endswith("/")
        }
    records = package(channel, "python", version, python, noarch="generic")
    records |= package(channel, "pip", wheel.name.split("-")[1], pip, noarch="python", depends=["python >=3.9"])
    index = {"info": {"subdir": "noarch"}, "packages": records, "packages.conda": {}}
    (channel / "repodata.json").write_text(json.dumps(index))


def package(channel: Path, name: str, version: str, files: dict[str, bytes | Path], **facts: Any) -> dict[str, Any]:
    """Adds a package of these contents, or links, to a channel; its entry in the channel's index."""
    record = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [], **facts}
    paths = [
        {"_path": path, "path_type": "softlink" if isinstance(content, Path) else "hardlink"}
        for path, content in files.items()
    ]
    about = {"info/index.json": record, "info/paths.json": {"paths": paths, "paths_version": 1}}
    archive = channel / f"{name}-{version}-0.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        for path, content in ({path: json.dumps(text).encode() for path, text in about.items()} | files).items():
            entry = tarfile.TarInfo(path)
            if isinstance(content, Path):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return {archive.name: record}


async def create(root: Path, file: Path, prefix: Path) -> None:
    """`conda env create`: its own packages first, then those of the section `pip`."""
    environment = yaml.safe_load(file.read_text())
    *own, pip = environment["dependencies"]
    channels = [(root / "channels" / channel).as_uri() for channel in environment["channels"]]
    records = await solve(channels, own, gateway=Gateway(cache_dir=root / "cache"), platforms=["noarch"])
    await install(records, prefix, cache_dir=root / "cache", show_progress=False)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(pip["pip"]))
        requirements.flush()
        command = [prefix / "bin/python", "-m", "pip", "install", "--quiet", "--requirement", requirements.name]
        subprocess.run(command, check=True)


def main(root: Path, *arguments: str) -> None:
    match arguments:
        case ["--version"]:
            print("conda 24.7.1")  # the oldest that Snakemake takes
        case ["info", "--json"]:
            print(json.dumps({"conda_prefix": str(root), "platform": str(Subdir.current())}))
        case ["config", "--get", "channel_priority", "--json"]:
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case ["env", "create", "--quiet", "--no-default-packages", "--file", file, "--prefix", prefix]:
            asyncio.run(create(root, Path(file), Path(prefix)))
        case ["clean", "-y", "--tarballs"]:
            pass
        case _:
            raise SystemExit(f"the stand-in for conda does not know: conda {' '.join(arguments)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # py-rattler's threads can crash an interpreter that ends
