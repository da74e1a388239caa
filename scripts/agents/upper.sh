#!/usr/bin/env bash
# The smallest agent in bash: answers with the text in capitals.
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/../hive.sh"
handler() { printf '%s' "${1^^}"; }
hive_serve handler
