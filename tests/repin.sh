#!/usr/bin/env bash
# Brings constraints.txt and uv.lock to the newest versions that pyproject.toml allows; needs uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
new=$(uv pip compile --quiet --upgrade --extra dev --python-version 3.11 --no-annotate --no-header pyproject.toml)
{
  echo "# Versions that CI runs with. pip install -c constraints.txt -e '.[dev]'"
  grep --invert-match --extended-regexp '^(nvidia|cuda|triton)' <<< "$new" # of PyTorch's builds for GPUs alone
} > constraints.txt
bash tests/lock.sh
