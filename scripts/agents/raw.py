#!/usr/bin/env python3
"""An agent without the kit: the bare wire. It takes short texts only; hive.py takes all."""
import sys

print("READY", flush=True)
for line in sys.stdin.buffer:
    verb, id, text = (line.decode().rstrip("\n").split(" ", 2) + ["", ""])[:3]
    if verb == "TASK":
        print(f"FAIL {id} too long for this agent" if text.startswith("REF:") else f"DONE {id} {text.upper()}", flush=True)
    elif verb == "PING":
        print(f"PONG {id}", flush=True)
    elif verb == "STOP":
        break
