#!/usr/bin/env bash
# Sets up .venv and runs the checks and tests that need no other extra than `dev`; arguments go to pytest (for example:
# tests/run.sh -m "not slow"). What CI runs besides is said in CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -d .venv ] || "${PYTHON:-python3}" -m venv .venv
source .venv/bin/activate
pip install --quiet --constraint constraints.txt --editable '.[dev]'

pyright --pythonpath "$(command -v python)" & # the longest of these checks, beside the others
types=$!
ruff check .
ruff format --check .
snakefmt --check Snakefile workflow
python -m transformer2 schema --check
snakemake --lint
wait "$types"
export OMP_NUM_THREADS=1 # two multi-threaded torch processes on the same cores are a hundred times slower
# Two files at a time, the longest first (testpaths): most tests keep one core busy, or wait; those of one file share what
# it prepares.
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
