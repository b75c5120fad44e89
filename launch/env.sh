# shellcheck shell=bash
# Sourced by the other scripts: one virtual environment, filled once.
#
#   VENV=PATH      where it lies (default: .venv in the repository)
#   EXTRAS=A,B     extras of setup.cfg to install: cuda12, cuda13, tpu, parity, ...
#                  (for another accelerator take another VENV)
#   PYTHON=PATH    the Python to make it with (default: the first that is new enough)
#
# Sourcing this file goes to the root of the repository; all paths are relative to it.

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
VENV=${VENV:-$PWD/.venv}
python=$VENV/bin/python
stamp=$VENV/.diffusion_jax # line 1: key of what was installed; line 2: its extras

die() {
  printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
  exit 2
}

# Stops unless CONFIG, less its :variant, names a file.
check_config() {
  local file=$1
  case $file in *.py:*) file=${file%.py:*}.py ;; esac
  [[ -f $file ]] || die "no config $file in $PWD; there are:" configs/*.py
}

find_python() {
  local candidate fits='import sys, ensurepip; sys.exit(sys.version_info < (3, 11))'
  if [[ -n ${PYTHON:-} ]]; then set -- "$PYTHON"; else
    set -- python3.11 python3.12 python3.13 python3 python # the one we test on first
  fi
  for candidate; do
    if "$candidate" -c "$fits" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer with its venv module is needed (on Debian and Ubuntu:" \
    "apt install python3-venv), and none of these is that: $*." \
    "Name another with PYTHON=/path/to/python3."
}

key() {
  { "$python" -V && pwd && cat setup.cfg pyproject.toml constraints.txt; } 2>&1 | cksum
}

# Whether these extras are installed, as today's files ask for them.
installed() {
  local was extras extra
  { read -r was && read -r extras; } 2>/dev/null <"$stamp" || return 1
  [[ $was == "$(key)" ]] || return 1
  for extra; do [[ " $extras " == *" $extra "* ]] || return 1; done
}

install() {
  local before='' extras info
  if [[ -f $stamp ]]; then before=$(sed -n 2p "$stamp"); fi
  # shellcheck disable=SC2086 # one word an extra
  extras=$(printf '%s\n' $before "$@" | sort -u | xargs)
  if [[ -f $VENV/pyvenv.cfg && $(head -n 1 "$stamp" 2>/dev/null) == incomplete ]]; then
    # The last install was cut off. pip writes RECORD last and would take a package
    # without one for whole: forget such packages, so that it installs them again.
    for info in "$VENV"/lib/python*/site-packages/*.dist-info; do
      if [[ -d $info && ! -f $info/RECORD ]]; then rm -r "$info"; fi
    done
  fi
  printf 'incomplete\n%s\n' "$before" >"$stamp"
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    PYTHON=$(find_python)
    if [[ -f $VENV/pyvenv.cfg ]]; then rm -f "$VENV"/bin/python*; fi # dead links
    "$PYTHON" -m venv "$VENV"
  fi
  echo "Installing diffusion_jax${extras:+ with $extras} into $VENV (once)"
  "$python" -m pip install --disable-pip-version-check -c constraints.txt \
    -e ".${extras:+[${extras// /,}]}"
  printf '%s\n%s\n' "$(key)" "$extras" >"$stamp"
}

# prepare_venv [EXTRA ...]: gives $python the package, these extras and $EXTRAS.
prepare_venv() {
  local extra known
  # shellcheck disable=SC2086 # one word an extra
  set -- "$@" ${EXTRAS:+${EXTRAS//,/ }}
  known=$(sed -n '/extras_require/,/^\[tool/s/^\([a-z0-9]*\) =$/\1/p' setup.cfg | xargs)
  for extra; do
    [[ " $known " == *" $extra "* ]] || die "no extra '$extra'; there are: $known"
  done
  if installed "$@"; then return; fi
  mkdir -p "$VENV"
  (
    if command -v flock >/dev/null; then flock 9; fi # two scripts at once take turns
    if ! installed "$@"; then install "$@"; fi
  ) 9>"$VENV/.lock"
}
