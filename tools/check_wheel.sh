#!/bin/sh
# Build the wheel, install it into an empty environment of each Python named, away from this folder, and use it.
#   tools/check_wheel.sh [--light] python3.10 python3.11 ...
# --light installs only what the command line needs to start; without it everything is installed (about 7 GB each, one
# after another) and the demo runs with it.
set -eu
light=
if [ "${1:-}" = --light ]; then light=1; shift; fi
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv || echo "$here/.venv/bin/uv")
"$uv" build --quiet --wheel --out-dir "$work/dist" "$here"
wheel=$(echo "$work"/dist/*.whl)
unzip -l "$wheel" | grep -q alexnet_fast/py.typed
! unzip -l "$wheel" | grep -E ' (tests|tools|benchmarks)/'
for python in "$@"; do
  rm -rf "$work/venv"
  "$uv" venv --quiet --python "$python" "$work/venv"
  export VIRTUAL_ENV="$work/venv"
  cd "$work"
  if [ -n "$light" ]; then
    PIP_FIND_LINKS= "$uv" pip install --quiet --no-deps "$wheel"
    PIP_FIND_LINKS= "$uv" pip install --quiet --constraint "$here/constraints.txt" typer rich
  else
    PIP_FIND_LINKS= "$uv" pip install --quiet --constraint "$here/constraints.txt" "$wheel"
  fi
  "$work/venv/bin/alexnet-fast" --version
  "$work/venv/bin/alexnet-fast" train --help > "$work/help.txt"
  "$work/venv/bin/python" -W error -c 'import alexnet_fast; print(sorted(alexnet_fast.__all__)[:3])'
  if [ -z "$light" ]; then
    "$work/venv/bin/alexnet-fast" doctor
    "$work/venv/bin/alexnet-fast" demo --out "$work/demo out"
  fi
  echo "ok: $("$work/venv/bin/python" --version)"
done
