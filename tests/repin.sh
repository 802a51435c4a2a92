#!/usr/bin/env bash
# Brings uv.lock and constraints.txt to the newest versions that all extras of pyproject.toml can have together; needs uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv lock --quiet --upgrade
locked=$(uv export --quiet --frozen --extra dev --no-hashes --no-emit-project --no-annotate --no-header)
pins=$(uv pip compile --quiet --constraint - --extra dev --python-version 3.11 --no-annotate --no-header pyproject.toml <<< "$locked")
{
  echo "# Versions that CI runs with. pip install -c constraints.txt -e '.[dev]'"
  grep --invert-match --extended-regexp '^(nvidia|cuda|triton)' <<< "$pins" # of PyTorch's builds for GPUs alone
} > constraints.txt
