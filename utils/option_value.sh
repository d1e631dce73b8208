# option_value NAME ARGUMENTS...: the value that the option has in the arguments, the last one if there are several,
# nothing if it is not there; "true" for a switch without a value. For what must be known before all options are parsed:
#
#   . utils/option_value.sh
#   mini=$(option_value mini "$@")
# shellcheck shell=bash

option_value() {
  local wanted=$1 name value=
  shift
  while [ $# -gt 0 ]; do
    name=${1%%=*}
    if [ "${name//-/_}" = "__${wanted}" ]; then
      case $1 in
        *=*) value=${1#*=} ;;
        *) case ${2:---} in --*) value=true ;; *) value=$2; shift ;; esac ;;
      esac
    elif [ $# -gt 1 ] && [ "${1#--}" != "$1" ] && [ "${1%%=*}" = "$1" ] && [ "${2#--}" = "$2" ]; then
      shift # the value of another option
    fi
    shift
  done
  printf '%s' "${value}"
}
