# Choose the Python to run with and leave it in the variable "python"; path.sh sources this file.
#
#   1. LRSMS_PYTHON, or an activated virtual or conda environment: the user's own. Only checked, never changed.
#   2. .venv at the root of the repository, once its installation has finished.
#   3. python3, when lrsms and all it needs are installed there.
#   4. otherwise .venv is created and filled, as utils/constraints.txt says.
# shellcheck shell=bash

_venv=${LRSMS_ROOT}/.venv
_venv_marker=${_venv}/lrsms_installed
_constraints=${LRSMS_ROOT}/utils/constraints.txt

# Import names of what pyproject.toml depends on.
_modules="espnet2 torch torchaudio lhotse sentencepiece kaldiio kaldialign espeakng_loader yaml tensorboard matplotlib
  soundfile soxr av tqdm optuna cmaes scipy cv2 msgspec tabulate"

_bootstrap_fail() {
  echo "error: $1" >&2
  exit 1
}

# Those of the modules "$2..." that Python "$1" does not find outside the repository.
_missing_modules() {
  local path=":${PYTHONPATH:-}:"
  path=${path//":${LRSMS_ROOT}:"/:}
  (cd / && PYTHONPATH=${path} "$1" -c '
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])' "${@:2}")
}

_is_recent_python() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# The user's own environment, as "interpreter<TAB>how it was chosen", or nothing.
_own_environment() {
  if [ -n "${LRSMS_PYTHON:-}" ]; then
    printf '%s\tLRSMS_PYTHON' "${LRSMS_PYTHON}"
  elif [ -n "${VIRTUAL_ENV:-}" ] && [ "${VIRTUAL_ENV}" != "${_venv}" ]; then
    printf '%s\tVIRTUAL_ENV' "${VIRTUAL_ENV}/bin/python"
  elif [ -n "${CONDA_PREFIX:-}" ]; then
    printf '%s\tCONDA_PREFIX' "${CONDA_PREFIX}/bin/python"
  fi
}

# The one command that installs the package, written "$2" (default: .), into the environment of Python "$1".
_install_command() {
  local folder=''
  [ "${PWD}" -ef "${LRSMS_ROOT}" ] || printf -v folder 'cd %q && ' "${LRSMS_ROOT}"
  printf '%s%q -m pip install -c utils/constraints.txt -e %s' "${folder}" "$1" "${2:-.}"
}

_check_own_environment() { # interpreter, how it was chosen
  command -v "$1" >/dev/null || _bootstrap_fail "$2 leads to $1, which is not an executable Python"
  _is_recent_python "$1" || _bootstrap_fail "$1 (from $2) is not a working Python 3.10 or newer"
  local missing
  # shellcheck disable=SC2086
  missing=$(_missing_modules "$1" ${_modules}) || _bootstrap_fail "$1 (from $2) cannot look up its packages"
  [ -z "${missing}" ] && return
  echo "error: the environment of $1 (from $2) lacks: ${missing}" >&2
  echo "Nothing was installed. This installs what is missing:" >&2
  echo "  $(_install_command "$1")" >&2
  echo "Or unset $2, and the recipe makes an environment of its own in .venv." >&2
  exit 1
}

_fingerprint() { # of everything an installation depends on
  cat "${LRSMS_ROOT}/pyproject.toml" "${_constraints}" | cksum
}

_venv_is_finished() {
  [ -x "${_venv}/bin/python" ] && [ -f "${_venv_marker}" ] && [ "$(cat "${_venv_marker}")" = "$(_fingerprint)" ]
}

_is_installed_in() {
  # shellcheck disable=SC2086
  _is_recent_python "$1" && [ -z "$(_missing_modules "$1" lrsms ${_modules} || echo failed)" ]
}

# The first Python 3.10 or newer, 3.11 for preference because that is what the constraints were made with.
_find_base_python() {
  local candidate
  for candidate in python3.11 python3 python3.12 python3.10 python3.13; do
    if _is_recent_python "${candidate}"; then
      echo "${candidate}"
      return
    fi
  done
  command -v python3 >/dev/null || _bootstrap_fail "python3 was not found; install Python 3.11"
  _bootstrap_fail "python3 is $(python3 -V 2>&1); Python 3.10 or newer is needed, 3.11 for preference"
}

_install_venv() {
  local base quiet=''
  base=$(_find_base_python) || exit 1
  "${base}" -c 'import ensurepip, venv' 2>/dev/null ||
    _bootstrap_fail "${base} cannot make virtual environments; install its venv module (Debian, Ubuntu: python3-venv)"
  echo "Installing ESPnet, PyTorch with CUDA libraries and Lhotse into .venv: about 5.5 GB on disk, a few minutes." >&2
  [ -x "${_venv}/bin/python" ] || "${base}" -m venv --clear "${_venv}" || _bootstrap_fail "cannot create ${_venv}"
  [ -t 2 ] || quiet=-q # on a terminal, pip's own progress bars
  local wanted
  wanted=$(_fingerprint) # before: the files may change while pip runs
  rm -f "${_venv_marker}"
  # shellcheck disable=SC2086
  (cd "${LRSMS_ROOT}" && env -u PYTHONPATH .venv/bin/python -m pip install ${quiet} --disable-pip-version-check \
    -c utils/constraints.txt -e '.[test]') >&2 ||
    _bootstrap_fail "the installation did not finish; run the same command again to complete it"
  echo "${wanted}" >"${_venv_marker}"
}

# Two recipes started together: the second waits for the first, then finds the environment finished.
_install_venv_once() {
  (
    if command -v flock >/dev/null; then flock 9; fi
    _venv_is_finished || _install_venv 9>&-
  ) 9>>"${_constraints}"
}

_bootstrap() {
  local own
  own=$(_own_environment)
  if [ -n "${own}" ]; then
    python=${own%$'\t'*}
    _check_own_environment "${python}" "${own##*$'\t'}"
  elif _venv_is_finished; then
    python=${_venv}/bin/python
  elif _is_installed_in python3; then
    python=python3
  else
    _install_venv_once || exit 1
    python=${_venv}/bin/python
  fi
}

_bootstrap
