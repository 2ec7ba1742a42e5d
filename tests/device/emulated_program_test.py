"""The program with an emulated GPU: the real model's greedy tokens there are the CPU's.

    emulated_program_test.py TIERCEL_EMULATED TIERCEL

A token takes the emulator many seconds, so there are few.
"""

import json
import os
import subprocess
import sys


def run(program, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIERCEL_") or
                   name in ("TIERCEL_MODEL", "TIERCEL_CACHE_DIR")}
    command = [program, "run", "--json", "--prompt", "The capital of France is", "--max-tokens", "2", *arguments]
    return json.loads(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout)


emulated = run(sys.argv[1], "--device", "cuda", "--cache-bytes", "0", "--context", "64", "--no-speculation")
expected = run(sys.argv[2])
assert emulated["ids"] == expected["ids"], (emulated["text"], expected["text"])
assert emulated["stats"]["memory"]["kv_capacity_bytes"] > 0
refused = subprocess.run([sys.argv[1], "run", "--device", "cuda:1", "--prompt", "x"], stderr=subprocess.PIPE, text=True)
assert refused.returncode == 1 and "there is no GPU 1; the last one is 0" in refused.stderr, refused.stderr
# Ranks that it starts are on the GPUs behind the first; here there is none.
refused = subprocess.run([sys.argv[1], "run", "--ranks", "2", "--device", "cuda", "--prompt", "x"], stderr=subprocess.PIPE, text=True)
assert refused.returncode == 1 and "there is no GPU 1; the last one is 0" in refused.stderr, refused.stderr
assert "rank 1 cannot compute on its GPU" in refused.stderr, refused.stderr
