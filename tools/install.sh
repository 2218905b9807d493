#!/bin/sh
# Install the package, editable and with its test and lint extras, into the virtual environment named as $1.
set -eu
venv=$1
uv=$(command -v uv || true)
if [ -z "$uv" ] && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
  uv=$venv/bin/uv
fi
if [ -n "$uv" ]; then
  VIRTUAL_ENV=$venv "$uv" pip install --quiet --constraint constraints.txt --editable '.[dev]'
else
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
fi
