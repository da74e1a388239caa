# shellcheck shell=bash
# hive.sh: write an agent of kind `lines` in bash (5 or newer).
#
#     . hive.sh
#     handler() { echo "${1^^}"; }
#     hive_serve handler [label...]
#
# handler TEXT ID  answers one task: stdout is the result, status 0 is done; anything else is failed, for the reason in
# the last line of its stderr. Stdin is empty. A short line loses its final newline; any other result arrives byte for byte.
# A long text comes whole in TEXT (up to its first NUL), and $HIVE_TEXT_FILE then names the file that holds it.
# The tools that it runs see HIVE_TASK, the task's id, and the path of each context `notes` that the agent holds in
# HIVE_CONTEXT_NOTES. Within it:
#     hive_progress PERCENT [TEXT]              hive_usage in=N out=N [cache=N] [usd=X]
#     hive_context NAME   path of that context  hive_ref FILE     store a file (`-`: stdin), print its REF:...
#     hive_fetch REF      path of that content
#     hive_changes NAME   path of what this task changed in a context the agent held before (a unified diff); else status 1
#
# Owns the wire of one agent: whole lines, each one write(2), from descriptors that no tool inherits.
# Invariant: lines are handled in order, one at a time, so a PONG says that every task sent before the PING is answered.

declare -A _hive_contexts=() _hive_diffs=()

hive_serve() {
    local handler=$1 line verb id text
    shift
    : "${HIVE_CONTEXT:?hive.sh: this is the folder of contents; hive sets it}"
    (umask 077 && mkdir -p -- "$HIVE_CONTEXT/tmp") || return
    _hive_pid=$BASHPID
    _hive_scratch=$HIVE_CONTEXT/tmp/kit.$BASHPID.$RANDOM$RANDOM
    exec {_hive_in}<&0 {_hive_out}>&1 </dev/null >&2
    trap '' USR1 USR2 # the pool's doorbells: not for this agent, and deadly where nothing is set
    _hive_say READY "$@"
    while IFS= read -r line <&"$_hive_in"; do
        # Cut by hand: read's own splitting would eat the blanks around the text.
        verb=${line%% *} line=${line#"$verb"} line=${line# }
        id=${line%% *} text=${line#"$id"} text=${text# }
        case $verb in
            TASK) _hive_task "$handler" "$id" "$text" ;;
            CONTEXT) [[ $text == ?*' '?* ]] && _hive_hold "$id" "${text%% *}" "${text#* }" ;;
            PING) _hive_say PONG "$id" ;;
            STOP) return 0 ;;
            CANCEL | CHECKPOINT | INJECT | PAUSE | RESTORE | RESUME) ;; # nothing was declared: nothing to do
            *) echo "hive.sh: ignored a line that starts with ${verb:0:40}" >&2 ;;
        esac
    done
    [[ -z $line ]] || echo "hive.sh: ignored half a line at the end of input" >&2
}

hive_progress() { _hive_note "${2-}" && _hive_say PROGRESS "$HIVE_TASK" "$1" ${_hive_noted:+"$_hive_noted"}; }

hive_usage() { _hive_say USAGE "$HIVE_TASK" "$@"; }

hive_context() {
    [[ ${1-} && ${_hive_contexts[=$1]-} ]] || { echo "no context ${1-}" >&2; return 1; }
    hive_fetch "${_hive_contexts[=$1]}"
}

hive_changes() {
    [[ ${_hive_diffs[=${1-}]-} == "$HIVE_TASK "* ]] || { echo "no changes in context ${1-}" >&2; return 1; }
    hive_fetch "${_hive_diffs[=$1]#* }"
}

hive_fetch() {
    local path=$HIVE_CONTEXT/${1:4:2}/${1:6}
    _hive_is_ref "$1" || { echo "not a reference: $1" >&2; return 1; }
    [[ -r $path ]] || { echo "no content for $1" >&2; return 1; }
    printf '%s\n' "$path"
}

hive_ref() (
    umask 077
    copy=$(mktemp -- "$HIVE_CONTEXT/tmp/ref.XXXXXXXX") || exit
    # The copy is what is named: whoever still writes to the file cannot change what the name stands for.
    cat -- "$1" >"$copy" && sum=$(sha256sum <"$copy") && sum=${sum%% *} && mkdir -p -- "$HIVE_CONTEXT/${sum:0:2}" &&
        mv -f -- "$copy" "$HIVE_CONTEXT/${sum:0:2}/${sum:2}" && echo "REF:$sum" && exit
    rm -f -- "$copy"
    exit 1
)

# ID NAME "REF [base=REF diff=REF]": hold a context, and for that task what it changed.
_hive_hold() {
    local ref=${3%% *} rest=" ${3#"${3%% *}"} " base diff
    base=${rest##* base=} diff=${rest##* diff=}
    _hive_diffs[=$2]=
    if [[ $rest == *' diff='* && ${base%% *} == "${_hive_contexts[=$2]-}" ]]; then
        _hive_diffs[=$2]="$1 ${diff%% *}"
    fi
    _hive_contexts[=$2]=$ref
}

# For the tools of a handler: where each context is.
_hive_export_contexts() {
    local name variable path
    for name in "${!_hive_contexts[@]}"; do
        path=${_hive_contexts[$name]} name=${name#=} variable=${name^^}
        export "HIVE_CONTEXT_${variable//[!A-Z0-9]/_}=$HIVE_CONTEXT/${path:4:2}/${path:6}"
    done
}

# HANDLER ID TEXT: run one task and answer it.
_hive_task() {
    local handler=$1 id=$2 text=$3 out=$_hive_scratch.out err=$_hive_scratch.err kept shown tee status=0 reason i HIVE_TEXT_FILE=
    [[ $id ]] || { echo "hive.sh: ignored a TASK without an id" >&2; return 0; }
    if _hive_is_ref "$text"; then
        HIVE_TEXT_FILE=$(hive_fetch "$text") || { _hive_say FAIL "$id" "no content for $text"; return 0; }
        IFS= read -r -d '' text <"$HIVE_TEXT_FILE" || : # unlike $(<file), keeps the newlines at the end
    fi
    # Files, not pipes: a tool left behind in the background would keep a pipe, and so the task, open.
    # Opened here and not by tee, which may come so late that it would make the file after it was removed.
    exec {kept}>"$err" || { _hive_say FAIL "$id" "cannot write to $HIVE_CONTEXT/tmp"; return 0; }
    exec {shown}> >(exec {_hive_in}<&- {_hive_out}>&- tee -a -- "/dev/fd/$kept" >&2) {kept}>&-
    tee=$!
    set -m # gives the handler and its tools a process group of their own, where no broadcast reaches them ...
    (
        trap - USR1 USR2 # ... so they get the default back: what is ignored at exec, a tool that is a shell cannot trap
        exec {_hive_in}<&- {_hive_out}>&- 2>&"$shown" {shown}>&-
        export HIVE_TASK=$id
        _hive_export_contexts
        "$handler" "$text" "$id"
    ) >"$out" &
    set +m # or wait would return when the handler is merely stopped
    exec {shown}>&-
    wait "$!" || status=$?
    if ((status == 0)); then
        _hive_done "$id" "$out"
    else
        # The last line may still be on its way through tee; a second is for the case that a tool keeps it open.
        for ((i = 0; i < 50; i++)); do kill -0 "$tee" 2>/dev/null || break; sleep 0.02; done
        reason=$(tail -c 4096 -- "$err" | tr '\0' ' ' | LC_ALL=C grep -a '[^[:space:]]' | tail -n 1) || :
        _hive_note "$reason"
        _hive_say FAIL "$id" "${_hive_noted:-exit status $status}"
    fi
    rm -f -- "$out" "$err" # new files for each task: what is left behind writes into its own
}

# ID FILE: DONE, inline where the file is one short line of UTF-8, else by reference.
_hive_done() {
    local LC_ALL=C text ref # lengths in bytes
    if ! IFS= read -r -d '' -n 2050 text <"$2"; then # it ended before 2,050 bytes or a NUL
        text=${text%$'\n'}
        if ((${#text} <= 2048)) && [[ $text != *$'\n'* ]] && _hive_is_utf8 "$text"; then
            _hive_say DONE "$1" ${text:+"$text"}
            return
        fi
    fi
    if ref=$(hive_ref "$2"); then _hive_say DONE "$1" "$ref"; else _hive_say FAIL "$1" "cannot store the result"; fi
}

# TEXT: sets _hive_noted to what of it fits beside other fields: one line, short, UTF-8.
_hive_note() {
    local LC_ALL=C
    _hive_noted=${1:0:500} _hive_noted=${_hive_noted//[[:cntrl:]]/ }
    _hive_is_utf8 "$_hive_noted" || _hive_noted=$(printf %s "$_hive_noted" | iconv -c -f UTF-8 -t UTF-8 2>/dev/null) || :
}

_hive_is_utf8() { [[ $1 != *[$'\200'-$'\377']* ]] || printf %s "$1" | iconv -f UTF-8 -t UTF-8 &>/dev/null; }

_hive_is_ref() { [[ $1 =~ ^REF:[0-9a-f]{64}$ ]]; }

# FIELDS...: by the name of the descriptor, because the handler's shell does not hold the descriptor itself.
_hive_say() { local IFS=' '; printf '%s\n' "$*" >>"/proc/$_hive_pid/fd/$_hive_out"; }
