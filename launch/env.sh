# shellcheck shell=bash
# Sourced by the other scripts: creates one virtual environment and installs into it once.
#
#   VENV=PATH      its path (default: .venv in the repository)
#   EXTRAS=A,B     extras of setup.cfg to install: cuda12, cuda13, tpu, parity, ...
#                  (use a separate VENV for each accelerator)
#   PYTHON=PATH    the Python that creates it (default: the first that is new enough)
#
# Sourcing this file changes to the root of the repository; all paths are relative to it.

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
VENV=${VENV:-$PWD/.venv}
python=$VENV/bin/python
stamp=$VENV/.diffusion_jax # line 1: key of the installation; line 2: its extras

die() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 2
}

# Exits unless CONFIG, without its :variant, is a file.
check_config() {
  local file=$1
  case $file in *.py:*) file=${file%.py:*}.py ;; esac
  [[ -f $file ]] || die "no config $file in $PWD; there are:" configs/*.py
}

# first_python MINOR NAME...: prints the first that is Python 3.MINOR or newer with its
# venv module. A name stands for the command and, where pyenv hides it behind a shim that
# runs nothing, for pyenv's Pythons.
first_python() {
  local name candidate fits="import sys, ensurepip; sys.exit(sys.version_info < (3, $1))"
  for name in "${@:2}"; do
    for candidate in "$name" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"$name"; do
      if "$candidate" -c "$fits" 2>/dev/null; then
        echo "$candidate"
        return
      fi
    done
  done
  return 1
}

find_python() {
  if [[ -n ${PYTHON:-} ]]; then set -- "$PYTHON"; else
    set -- python3.11 python3.12 python3.13 python3 python # the one we test on first
  fi
  first_python 11 "$@" ||
    die "Python 3.11 or newer with its venv module is needed (on Debian and Ubuntu:" \
      "apt install python3-venv), and none of these is that: $*." \
      "Name another with PYTHON=/path/to/python3."
}

key() {
  { "$python" -V && pwd && cat setup.cfg pyproject.toml constraints*.txt; } 2>&1 | cksum
}

# Returns whether these extras are installed, as the current files specify them.
installed() {
  local was extras extra
  { read -r was && read -r extras; } 2>/dev/null <"$stamp" || return 1
  [[ $was == "$(key)" ]] || return 1
  for extra; do [[ " $extras " == *" $extra "* ]] || return 1; done
}

install() {
  local before='' extras info constraints=constraints.txt
  if [[ -f $stamp ]]; then before=$(sed -n 2p "$stamp"); fi
  # shellcheck disable=SC2086 # one word per extra
  extras=$(printf '%s\n' $before "$@" | sort -u | xargs)
  if [[ -f $VENV/pyvenv.cfg && $(head -n 1 "$stamp" 2>/dev/null) == incomplete ]]; then
    # The last installation was interrupted. pip writes RECORD last, but treats a package
    # without it as installed: remove such packages, so that pip installs them again.
    for info in "$VENV"/lib/python*/site-packages/*.dist-info; do
      if [[ -d $info && ! -f $info/RECORD ]]; then rm -r "$info"; fi
    done
  fi
  printf 'incomplete\n%s\n' "$before" >"$stamp"
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    PYTHON=$(find_python)
    if [[ -f $VENV/pyvenv.cfg ]]; then rm -f "$VENV"/bin/python*; fi # dangling links
    "$PYTHON" -m venv "$VENV"
  fi
  if [[ -n $(first_python 12 "$python") ]]; then # JAX 0.11 and newer need Python 3.12
    constraints=constraints-python312.txt
  fi
  echo "Installing diffusion_jax${extras:+ with $extras} into $VENV (once)," \
    "with the versions in $constraints; this takes some minutes"
  "$python" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
    -e ".${extras:+[${extras// /,}]}"
  printf '%s\n%s\n' "$(key)" "$extras" >"$stamp"
}

# prepare_venv [EXTRA ...]: installs the package, these extras and $EXTRAS for $python.
prepare_venv() {
  local extra known
  # shellcheck disable=SC2086 # one word per extra
  set -- "$@" ${EXTRAS:+${EXTRAS//,/ }}
  known=$(sed -n '/extras_require/,/^\[tool/s/^\([a-z0-9_]*\) =$/\1/p' setup.cfg | xargs)
  for extra; do
    [[ " $known " == *" $extra "* ]] || die "no extra '$extra'; there are: $known"
  done
  if installed "$@"; then return; fi
  mkdir -p "$VENV"
  (
    if command -v flock >/dev/null; then flock 9; fi # concurrent scripts take turns
    if ! installed "$@"; then install "$@"; fi
  ) 9>"$VENV/.lock"
}
