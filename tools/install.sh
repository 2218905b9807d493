#!/bin/sh
# Make the virtual environment $1 with the interpreter $2 and install the package into it, editable, with all it takes
# to test and lint it. Versions are those of constraints.txt, or with a third word, lowest, the lowest that
# pyproject.toml declares. Nothing outside $1 has to be writable but the caches, and where they are not, the installers
# do without.
set -eu
venv=$1
python=${2:-python3}
versions=${3:-tested}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: Python 3.10 or newer is needed: name one with make PYTHON=python3.12" >&2
  exit 2
}
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
  rm -rf "$venv" # Debian's python3 without python3-venv leaves half an environment
  uv venv --quiet --seed --python "$python" "$venv" || {
    echo "error: $python cannot make a virtual environment: install its venv module (Debian, Ubuntu: python3-venv) or uv" >&2
    exit 2
  }
fi

pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

# uv installs the same packages several times faster than pip.
uv=$(command -v uv || true)
if [ -z "$uv" ] && pip install uv; then
  uv=$venv/bin/uv
fi
if [ -n "$uv" ]; then
  # uv does not read pip's settings: a mirror that is set there is passed on.
  mirror=$(pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
  [ -z "$mirror" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$mirror}"
  cache=$("$uv" cache dir 2>/dev/null || true)
  if [ -z "$cache" ] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
    export UV_NO_CACHE=1
  fi
  export VIRTUAL_ENV=$venv
  if [ "$versions" = lowest ]; then
    exec "$uv" pip install --quiet --resolution lowest-direct --editable '.[test]'
  fi
  "$uv" pip install --quiet --constraint constraints.txt --editable '.[dev]' && exit
  echo "uv could not install; trying pip" >&2
fi
[ "$versions" != lowest ] || {
  echo "error: the lowest versions are found by uv alone, which could not be installed: install uv" >&2
  exit 2
}
pip install --constraint constraints.txt --editable '.[dev]'
