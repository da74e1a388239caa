#!/usr/bin/env bash
# An agent without the kit: the bare wire. It takes short texts, and loses the blanks around them; hive.sh does neither.
echo READY
while read -r verb id text; do
    case "$verb $text" in
        "TASK REF:"*) echo "FAIL $id too long for this agent" ;;
        "TASK "*) printf 'DONE %s %s\n' "$id" "${text^^}" ;;
        "PING "*) echo "PONG $id" ;;
        "STOP "*) exit ;;
    esac
done
