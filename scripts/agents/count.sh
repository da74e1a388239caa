#!/usr/bin/env bash
# Counts from 1 to the number that the text says, a step each 10 ms. It can be checkpointed, paused and resumed where it
# was, and told `count down`; its answer is where it ended. `tool SECONDS` sleeps so long instead, and is steered meanwhile.
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/../hive.sh"

on_checkpoint() { echo "$n $step"; }
on_pause() { on_checkpoint; }
on_restore() { read -r n step <<<"$1"; }
on_inject() { case $1 in *down*) step=-1 ;; *) step=1 ;; esac }

n=0 step=1
handler() {
    if [[ $1 == tool* ]]; then
        hive_tool sleep "${1#tool }" && echo "slept, at $n $step"
        return
    fi
    until ((n < 0 || (n == $1 && step > 0))); do
        n=$((n + step))
        ((n % 10)) || hive_progress $((n < 0 ? 0 : 100 * n / $1))
        sleep 0.01
        hive_poll
    done
    echo "$n"
}
hive_serve handler
