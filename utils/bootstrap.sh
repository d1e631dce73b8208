# Choose the Python to run with and leave it in the variable "python"; path.sh sources this file.
#
#   1. LRSMS_PYTHON, or an activated virtual or conda environment: the user's own. Only checked, never changed.
#   2. .venv at the root of the repository, once its installation has finished.
#   3. python3, if lrsms and all it needs are installed there.
#   4. otherwise .venv is created by the first of _pythons that works, and filled with what utils/requirements.txt pins.
# shellcheck shell=bash

_venv=${LRSMS_ROOT}/.venv
_venv_marker=${_venv}/lrsms_installed
_requirements=${LRSMS_ROOT}/utils/requirements.txt
_os_release=/etc/os-release
_pythons="python3 python3.13 python3.12 python3.11 python"
_disk_gb=10 # 6 in the end, and the downloads until then
_cache_gb=3 # what pip keeps of them in its cache

# Import names of what pyproject.toml depends on.
_modules="espnet2 torch torchaudio lhotse urllib3 sentencepiece kaldiio kaldialign espeakng_loader yaml tensorboard
  matplotlib soundfile soxr av tqdm optuna cmaes scipy cv2 msgspec tabulate"

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

# Why Python "$1" cannot run this package, in words that follow its name, or nothing if it can.
_objection() {
  "$1" -c '
import struct, sys
if not (3, 11) <= sys.version_info[:2] < (3, 14):
    print("is Python %d.%d" % sys.version_info[:2])
elif sys.implementation.name != "cpython" or struct.calcsize("P") != 8:
    print("is not a 64-bit CPython")' 2>/dev/null || echo "does not start"
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

# The one command that installs the package and all it needs into the environment of Python "$1".
_install_command() {
  local folder=''
  [ "${PWD}" -ef "${LRSMS_ROOT}" ] || printf -v folder 'cd %q && ' "${LRSMS_ROOT}"
  printf '%s%q -m pip install --no-deps -r utils/requirements.txt -e .' "${folder}" "$1"
}

_check_own_environment() { # interpreter, how it was chosen
  command -v "$1" >/dev/null || _bootstrap_fail "$2 leads to $1, which is not an executable Python"
  local objection missing
  objection=$(_objection "$1")
  [ -z "${objection}" ] || _bootstrap_fail "$1 (from $2) ${objection}; Python 3.11, 3.12 or 3.13 is needed"
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
  cat "${LRSMS_ROOT}/pyproject.toml" "${_requirements}" | cksum
}

_venv_is_finished() {
  [ -x "${_venv}/bin/python" ] && [ -f "${_venv_marker}" ] && [ "$(cat "${_venv_marker}")" = "$(_fingerprint)" ]
}

_is_installed_in() {
  # shellcheck disable=SC2086
  [ -z "$(_objection "$1")" ] && [ -z "$(_missing_modules "$1" lrsms ${_modules} || echo failed)" ]
}

# The version of Python in range that this release of Debian or Ubuntu has, or nothing.
_debian_python() {
  # shellcheck source=/dev/null
  case $(. "${_os_release}" 2>/dev/null && echo "${UBUNTU_CODENAME:-${VERSION_CODENAME:-}}") in
    bookworm | jammy) echo 3.11 ;;
    noble) echo 3.12 ;;
    trixie | plucky | questing) echo 3.13 ;;
    *) # a newer one may have 3.13 beside its own
      case $(apt-cache policy python3.13-venv 2>/dev/null) in *"Candidate: 3"*) echo 3.13 ;; esac ;;
  esac
}

# The command that installs a Python in range here, or the venv module of Python "$1", the version of one without it.
_python_command() {
  local sudo='' version=$1
  [ "${EUID}" -eq 0 ] || sudo='sudo '
  if command -v apt-get >/dev/null; then
    version=${version:-$(_debian_python)}
    [ -z "${version}" ] || echo "${sudo}apt-get update && ${sudo}apt-get install -y python${version}-venv"
  elif command -v dnf >/dev/null; then
    echo "${sudo}dnf install -y python${version:-3.12}"
  elif command -v brew >/dev/null; then
    echo "brew install python@${version:-3.13}"
  fi
}

# The first Python that can make .venv; if there is none, one sentence says why and what installs one.
_find_base_python() {
  local candidate objection objections='' command version=''
  for candidate in ${_pythons}; do
    command -v "${candidate}" >/dev/null || continue
    objection=$(_objection "${candidate}")
    if [ -z "${objection}" ]; then
      if "${candidate}" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "${candidate}"
        return
      fi
      objection="lacks the module venv or ensurepip"
      version=$("${candidate}" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    fi
    objections+="${objections:+, }${candidate} ${objection}"
  done
  command=$(_python_command "${version}")
  _bootstrap_fail "Python 3.11, 3.12 or 3.13 is needed (here, ${objections:-no python3 is found}). Nothing was downloaded.$(
    ) Install it and run this again: ${command:-uv python install 3.13 (uv: https://docs.astral.sh/uv)}"
}

_check_disk() {
  local free needed=$((_disk_gb + _cache_gb))
  [ -z "${PIP_NO_CACHE_DIR:-}" ] || needed=${_disk_gb}
  free=$(df -Pk "${LRSMS_ROOT}" | { read -r _ && read -r _ _ _ free _ && echo $((free / 976563)); }) # GB
  [ "${free}" -ge "${needed}" ] ||
    _bootstrap_fail "installing into .venv takes ${needed} GB of disk space (${_disk_gb} with PIP_NO_CACHE_DIR=1), and $(
      )${LRSMS_ROOT} has ${free} GB. Nothing was downloaded. Make room, or activate an environment on another disk"
}

# Pip in .venv. Its downloads go there too, so that _check_disk has seen the only disk that fills up; what it says on
# stderr is also left in .venv/pip_errors.txt.
_pip_install() {
  local quiet=''
  [ -t 2 ] || quiet=-q # on a terminal, pip's own progress bars
  # shellcheck disable=SC2086
  (cd "${LRSMS_ROOT}" && rm -rf .venv/tmp && mkdir .venv/tmp
    env -u PYTHONPATH TMPDIR="${_venv}/tmp" PIP_USE_PEP517=1 .venv/bin/python -m pip install \
      ${quiet} --disable-pip-version-check "$@" 2>&1 1>&3 | tee -a .venv/pip_errors.txt >&2
    status=${PIPESTATUS[0]}
    rm -rf .venv/tmp
    exit "${status}") 3>&2
}

# What can be done about the installation that just failed.
_installation_advice() {
  local errors=${_venv}/pip_errors.txt
  if grep -q "No space left on device" "${errors}"; then
    echo "the disk is full; make room and run the same command again"
  elif grep -q "CERTIFICATE_VERIFY_FAILED" "${errors}"; then
    echo "pip does not trust the certificate of its package index; set PIP_CERT and run the same command again"
  elif grep -qiE "connection|timed out|timeout|name resolution|IncompleteRead" "${errors}"; then
    echo "the network failed; run the same command again to complete it"
  else
    echo "pip says: $(grep "^ERROR" "${errors}" | tail -n 1)"
  fi
}

_install_venv() {
  local base wanted
  base=$(_find_base_python) || exit 1
  _check_disk
  echo "Installing ESPnet, PyTorch with CUDA libraries and Lhotse into .venv with ${base}: about 3 GB to download," \
    "6.3 GB on disk, 5 to 10 minutes." >&2
  if [ ! -x "${_venv}/bin/python" ] || [ -n "$(_objection "${_venv}/bin/python")" ]; then
    "${base}" -m venv --clear "${_venv}" || _bootstrap_fail "cannot create ${_venv}"
  fi
  wanted=$(_fingerprint) # before: the files may change while pip runs
  rm -f "${_venv_marker}" "${_venv}/pip_errors.txt"
  # Packages without a wheel, all of pure Python, are built by the pinned setuptools instead of the newest.
  _pip_install -c utils/requirements.txt setuptools &&
    _pip_install --no-deps --no-build-isolation -r utils/requirements.txt -e . ||
    _bootstrap_fail "the installation did not finish: $(_installation_advice)"
  echo "${wanted}" >"${_venv_marker}"
}

# Two recipes started together: the second waits for the first, then finds the environment finished.
_install_venv_once() {
  (
    if command -v flock >/dev/null; then flock 9; fi
    _venv_is_finished || _install_venv 9>&-
  ) 9>>"${_requirements}"
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
