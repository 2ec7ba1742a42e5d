"""Ranks on two machines, as far as one can have them: each in a network namespace of its own, with a cable between.

    ranks_namespaces_test.py PROGRAM

Skipped (77) where this process may make no namespaces.
"""

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
NAMES = [f"tiercel{os.getpid()}{end}" for end in "ab"]
ADDRESSES = ["10.211.7.1", "10.211.7.2"]
PROMPT = ["--prompt", "The capital of France is", "--max-tokens", "12", "--compute", "precise", "--threads", "1"]
LONG_PROMPT = [*PROMPT[:1], "The lighthouse keeper wrote every evening in a thick book. " * 20, *PROMPT[2:]]
RANKS = ["--ranks", "2", "--rank-address", ADDRESSES[0] + ":29511"]


def ip(*words):
    return subprocess.run(["ip", *words], stderr=subprocess.PIPE, text=True, check=True)


def inside(name, *words):
    return subprocess.Popen(["ip", "netns", "exec", name, PROGRAM, *words], stdout=subprocess.PIPE, text=True)


def connect_namespaces():
    for name in NAMES:
        ip("netns", "add", name)
    ip("link", "add", NAMES[0], "netns", NAMES[0], "type", "veth", "peer", "name", NAMES[1], "netns", NAMES[1])
    for name, address in zip(NAMES, ADDRESSES):
        ip("-n", name, "addr", "add", address + "/24", "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")


def main():
    try:
        connect_namespaces()
    except (OSError, subprocess.CalledProcessError) as error:
        print("skipped, no network namespaces here:", getattr(error, "stderr", error))
        sys.exit(77)
    alone = subprocess.run([PROGRAM, "run", *PROMPT], stdout=subprocess.PIPE, text=True, check=True).stdout
    for transport in ["tcp"] + (["gloo"] if "--gloo" in sys.argv else []):
        for stages in [[], ["--pipeline", "2"]]:  # rank 0 is told, and tells
            words = [*RANKS, "--rank-transport", transport]
            second = inside(NAMES[1], "rank", *words, "--rank", "1", "--threads", "1")
            first = inside(NAMES[0], "run", *words, *stages, *PROMPT)
            shared, _ = first.communicate(timeout=120)
            assert first.returncode == 0, f"rank 0 over {transport} {stages} ended with {first.returncode}"
            assert second.wait(timeout=60) == 0, f"rank 1 over {transport} {stages} ended with {second.returncode}"
            assert shared == alone and len(alone) > 10, (shared, alone)

    # Each machine keeps its part in a directory of its own, and the next two find the prefix.
    with tempfile.TemporaryDirectory() as folder:
        answers = []
        for _ in range(2):
            directories = [["--cache-dir", os.path.join(folder, name)] for name in "ab"]
            second = inside(NAMES[1], "rank", *RANKS, "--rank", "1", "--threads", "1", *directories[1])
            first = inside(NAMES[0], "run", *RANKS, *LONG_PROMPT, "--json", *directories[0])
            answer, _ = first.communicate(timeout=120)
            assert (first.returncode, second.wait(timeout=60)) == (0, 0)
            answers.append(json.loads(answer))
        assert answers[0]["tokens_reused"] == 0 and answers[1]["reused_by_tier"]["disk"] > 100, answers
        assert answers[0]["ids"] == answers[1]["ids"], answers

    # The cable is cut under way: both leave within the timeout.
    words = [*RANKS, "--rank-timeout-ms", "2000"]
    second = inside(NAMES[1], "rank", *words, "--rank", "1", "--threads", "1")
    first = inside(NAMES[0], "run", *words, "--prompt", "Once", "--max-tokens", "4000", "--ignore-eos", "--threads", "1")
    first.stdout.read(20)
    ip("-n", NAMES[0], "link", "set", NAMES[0], "down")
    assert first.wait(timeout=60) == 1, first.returncode
    assert second.wait(timeout=60) == 1, second.returncode


try:
    main()
finally:
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
