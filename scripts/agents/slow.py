#!/usr/bin/env python3
"""Takes as many seconds as the text says, and reports its progress in tenths."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from hive import serve


def handler(task):
    seconds = float(task.text)
    for tenth in range(10):
        task.progress(tenth * 10, f"{seconds * tenth / 10:.1f} of {seconds:.1f} s")
        time.sleep(seconds / 10)
    return f"slept {seconds:.1f} s"


serve(handler)
