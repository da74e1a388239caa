#!/usr/bin/env python3
"""The smallest agent in Python: answers with the text in capitals."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from hive import serve
serve(lambda task: task.text.upper())
