# Turn --name value, --name=value and --some-name into the variables of the script that sources this file:
#
#   stage=0        # first stage to run
#   force=false    # run stages again that have run already
#   . utils/parse_options.sh
#
# Every lower-case variable assigned a constant at the start of a line above the one that sources this file is an
# option; here=$(pwd) and _own=1 are not.
# A variable whose default is true or false is a switch: --force, --force true, --force=false.
# A variable whose default is a number takes numbers, and whole ones if that is a whole number. What counts is the default in the script, not a value that the
# same command line has given before. --help prints the script's leading comment and its options.
#
# Where the script defines the function options_from, which prints the paths of other scripts, what their leading
# comments name as options is taken as well, and left for them in the array further_options, as --name value:
#
#   --corpus-dir DIR    a folder, relative to where the user is
#   --mini true|false   a switch
#   --num-train N       anything else
#
# --help then prints the leading comment of the first of these scripts, too.
# shellcheck shell=bash

_options_script=${BASH_SOURCE[1]}

# One line for each option: "name<TAB>default  # comment".
_options_list() {
  awk '/^(\.|source) .*parse_options\.sh/ { exit }
       /^[a-z][a-z0-9_]*="?\$/ { next }
       match($0, /^[a-z][a-z0-9_]*=/) { printf "%s\t%s\n", substr($0, 1, RLENGTH - 1), substr($0, RLENGTH + 1) }' \
    "${_options_script}"
}

_options_names=" $(_options_list | cut -f 1 | sort -u | tr '\n' ' ')"

# The defaults as the script has them, in variables of their own: a recipe that gives an option first, and the user
# who gives it again, change only the value.
for _name in ${_options_names}; do
  printf -v "_default_${_name}" '%s' "${!_name-}"
done

# Paths of the scripts whose options are taken as well.
_options_sources() {
  ! declare -F options_from >/dev/null || options_from
}

# "name<TAB>value" of each option in the leading comments of the scripts whose paths it reads; the value is what stands
# for it there.
_options_further() {
  local script
  while IFS= read -r script; do
    awk '!/^#/ { exit } $2 ~ /^--/ { name = substr($2, 3); gsub(/-/, "_", name); print name "\t" $3 }' "${script}"
  done
}

_options_kind() { # what stands for the value of the option of the variable name "$1"
  _options_sources | _options_further | awk -F '\t' -v name="$1" '$1 == name && !found { print $2; found = 1 }'
}

_options_comment() { # of the script "$1"
  awk 'NR == 1 && /^#!/ { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$1"
}

_options_help() {
  local script
  _options_comment "${_options_script}"
  echo "Options, with their defaults:"
  _options_list | awk -F '\t' '{
    comment = match($2, /[ \t]+#.*/) ? substr($2, RSTART) : ""
    sub(/[ \t]+#.*/, "", $2)
    sub(/^[ \t]+/, "", comment)
    line = sprintf("  --%-16s %-22s %s", $1, $2, comment)
    sub(/ +$/, "", line)
    print line
  }'
  script=$(_options_sources | awk 'NR == 1')
  [ -z "${script}" ] || _options_comment "${script}"
}

_options_fail() {
  echo "error: ${_options_script##*/}: $1" >&2
  exit 1
}

# Variable name of option "$1" (dashes or underscores), or nothing when there is no such option.
_options_name() {
  local name=${1#--}
  name=${name%%=*}
  name=${name//-/_}
  case ${_options_names} in
    *" ${name} "*) echo "${name}" ;;
    *) [ -z "$(_options_kind "${name}")" ] || echo "${name}" ;;
  esac
}

_options_is_own() { # name
  case ${_options_names} in *" $1 "*) ;; *) return 1 ;; esac
}

_options_check() { # option, default, value
  case $2 in
    true | false)
      case $3 in true | false) ;; *) _options_fail "$1 $3: write true or false" ;; esac ;;
    *)
      if [[ $2 =~ ^-?[0-9]+$ && ! $3 =~ ^-?[0-9]+$ ]]; then
        _options_fail "$1 '$3': write a whole number"
      elif [[ $2 =~ ^-?[0-9]+\.[0-9]+$ && ! $3 =~ ^-?[0-9]*\.?[0-9]+([eE]-?[0-9]+)?$ ]]; then
        _options_fail "$1 '$3': write a number"
      fi ;;
  esac
}

_further_names=' '
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) _options_help; exit 0 ;;
    --?*) ;;
    *) _options_fail "unexpected argument '$1': options start with --" ;;
  esac
  _option=${1%%=*}
  _name=$(_options_name "$1")
  if [ -z "${_name}" ]; then
    _valid=$(for _option_name in ${_options_names} $(_options_sources | awk 'NR == 1' | _options_further | cut -f 1); do
      printf ' --%s' "${_option_name}"
    done)
    _options_fail "unknown option ${_option}; valid:${_valid}"
  fi
  if _options_is_own "${_name}"; then
    _variable=${_name} _default=_default_${_name} _kind=
    _default=${!_default}
  else
    _variable=_further_${_name} _default='' _kind=$(_options_kind "${_name}")
    [ "${_kind}" != 'true|false' ] || _default=false
    case ${_further_names} in *" ${_name} "*) ;; *) _further_names+="${_name} " ;; esac
  fi
  if [ "$1" != "${_option}" ]; then
    _value=${1#*=}
  elif [ $# -gt 1 ] && { [ "${2#--}" = "$2" ] || [ -z "$(_options_name "$2")" ]; }; then
    _value=$2
    shift
  else
    case ${_default} in
      true | false) _value=true ;;
      *) _options_fail "${_option} needs a value" ;;
    esac
  fi
  _options_check "${_option}" "${_default}" "${_value}"
  if [ "${_kind}" = DIR ] && [ -n "${_value}" ]; then
    _value=$(realpath -m -- "${_value}")
  fi
  printf -v "${_variable}" '%s' "${_value}"
  shift
done
further_options=()
for _name in ${_further_names}; do
  _variable=_further_${_name}
  [ -z "${!_variable}" ] || further_options+=("--${_name}" "${!_variable}")
done
unset _option _name _valid _default _value _variable _kind
