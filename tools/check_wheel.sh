#!/bin/sh
# Build the wheel, install it into an empty environment of each Python named, away from this folder, and use it.
#   tools/check_wheel.sh [--light] [--source ARCHIVE] python3.10 python3.11 ...
# --light installs only what the command line needs to start; without it everything is installed (about 7 GB each, one
# after another, each removed before the next) and the whole way is walked: pack, verify, inspect, a few steps of
# training, evaluate, predict, export. --source names the images; without it the demo makes them.
set -eu
light= source=
while :; do
  case "${1:-}" in
    --light) light=1; shift ;;
    --source) source=$(cd "$(dirname "$2")" && pwd)/$(basename "$2"); shift 2 ;;
    *) break ;;
  esac
done
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv || echo "$here/.venv/bin/uv")
"$uv" build --quiet --wheel --out-dir "$work/dist" "$here"
wheel=$(echo "$work"/dist/*.whl)
unzip -l "$wheel" | grep -q alexnet_fast/py.typed
! unzip -l "$wheel" | grep -E ' (tests|tools|benchmarks)/'
export PIP_FIND_LINKS=
unset PYTHONPATH
cd "$work"

install() { "$uv" pip install --quiet --python "$work/venv/bin/python" --constraint "$here/constraints.txt" "$@"; }
af() { echo "\$ alexnet-fast $*" && "$work/venv/bin/alexnet-fast" "$@"; }

for python in "$@"; do
  rm -rf "$work/venv" "$work/walk"
  "$uv" venv --quiet --python "$python" "$work/venv"
  if [ -n "$light" ]; then
    install --no-deps "$wheel"
    install typer rich
  else
    install "$wheel[export]"
  fi
  af --version
  af train --help > help.txt
  "$work/venv/bin/python" -m alexnet_fast --version
  "$work/venv/bin/python" -W error -c 'import alexnet_fast; print(sorted(alexnet_fast.__all__)[:3])'
  if [ -z "$light" ]; then
    af doctor
    if [ -n "$source" ]; then
      data=walk/data run="walk/a run"
      af pack "$source" $data --limit 300
      af verify $data --decode
      af inspect $data --grid walk/grid.png --augmented --image-size 64
      af train $data --run-dir "$run" --model alexnet-bn --set width=0.25 --image-size 64 --batch-size 32 --max-steps 20
      af evaluate "$run" $data --report walk/report --json walk/scores.json
      af predict "$run" walk/grid.png --top 2
      af export "$run" walk/model.onnx
    else
      af demo --out "walk/demo out"
    fi
  fi
  echo "ok: $("$work/venv/bin/python" --version)"
done
