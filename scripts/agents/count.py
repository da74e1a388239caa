#!/usr/bin/env python3
"""Counts from 1 to the number that the text says, a step each 10 ms. It can be checkpointed, paused and resumed where it
was, and told `count down`; its answer is every number that it passed a turn at, and the last."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from hive import serve


def save(task):
    return json.dumps(task.state)


def load(task, saved):
    task.state = json.loads(saved)


def told(task, text):
    task.state = task.state or start()
    down = "down" in text
    if down != (task.state["step"] < 0):
        task.state["step"] = -1 if down else 1
        task.state["turns"].append(task.state["n"])


def start():
    return {"n": 0, "step": 1, "turns": []}


def handler(task):
    goal = int(task.text)
    task.state = task.state or start()
    while not (task.state["n"] == goal and task.state["step"] > 0) and task.state["n"] >= 0:
        task.state["n"] += task.state["step"]
        task.progress(100 * max(task.state["n"], 0) // goal)
        time.sleep(0.01)
        task.poll()
    return " ".join(str(n) for n in [*task.state["turns"], task.state["n"]])


serve(handler, checkpoint=save, restore=load, inject=told, pause=save)
