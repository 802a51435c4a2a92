#!/usr/bin/env bash
# Makes uv.lock with the versions of constraints.txt, after a change of dependencies; needs uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mapfile -t pins < <(grep --invert-match '^#' constraints.txt)
uv lock "${pins[@]/#/--upgrade-package=}"
