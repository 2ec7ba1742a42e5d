"""Measures the rows of a workload that `tiercel bench --print-workload` wrote, on any engine.

A runner calls main() with a function that opens its engine. What stands here is the same for all of them, and the same as
src/cli/bench_command.cc does with tiercel: what is timed, how often, and which figure comes of it.
"""

import argparse
import json
import math
import pathlib
import time


def milliseconds(action):
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


def percentile(values, share):  # as src/cli/percentile.h
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def batches(prompts, together):
    return [prompts[i:i + together] for i in range(0, len(prompts), together)]


def measure(row, open_engine):
    """Key -> figure of one row: {"row", "before", "prompts", "chat", "tokens", "together", "context_tokens"}."""
    name, prompts, tokens, chat = row["row"], row["prompts"], row["tokens"], row["chat"]
    with open_engine(row["together"], row["context_tokens"]) as engine:
        engine.answer(["Hello there"], 4, False)
        for prompt in row["before"]:
            engine.answer([prompt], tokens, chat)
        if name in ("decode", "decode_again", "decode_8000"):
            return {name + "_tok_s": engine.decode_tok_s(prompts[0], tokens)}
        times_ms = [milliseconds(lambda batch=batch: engine.answer(batch, tokens, chat))
                    for batch in batches(prompts, row["together"])]
    if name in ("cold", "warm"):
        return {name + "_ttft_ms": min(times_ms)}
    if name == "query":
        return {"query_p50_ms": percentile(times_ms, .5), "query_p95_ms": percentile(times_ms, .95)}
    key = "query_req_s_100" if name == "query_100" else f"req_s_{row['together']}"
    return {key: 1e3 * len(prompts) / sum(times_ms)}


def deviation(texts, logprobs):
    """Mean |logprobs(ids) - reference| over all tokens but the first of each of the texts."""
    apart = []
    for text in texts:
        found = logprobs(text["ids"])
        assert len(found) == len(text["logprobs"])
        apart += [abs(one - expected) for one, expected in zip(found, text["logprobs"])]
    return sum(apart) / len(apart)


def main(peer, open_peer):
    """Prints one JSON object: version, the figures under the keys of `tiercel bench --json`, and left_out: row -> why.

    open_peer(model, threads) gives an object with: version; open(together, context_tokens), a context of an engine with
    answer(prompts, tokens, chat), which returns when all are answered, and decode_tok_s(prompt, tokens); own_rows, row ->
    function of the workload's row that returns its figures; left_out; and, where the engine tells it, logprobs(ids), the
    log-probability of each token but the first.
    """
    parser = argparse.ArgumentParser(description=f"Measures {peer} on the workload of tiercel bench.")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--workload", required=True, type=pathlib.Path, help="what tiercel bench --print-workload wrote")
    parser.add_argument("--threads", type=int, default=0, help="0: what the engine takes by itself")
    parser.add_argument("--reference", type=pathlib.Path, help="log-probabilities, as tests/data/logprobs.json has them")
    arguments = parser.parse_args()
    workload = json.loads(arguments.workload.read_text())
    opened = open_peer(arguments.model, arguments.threads)
    answer = {"version": opened.version}
    left_out = {}
    for row in workload["rows"]:
        name = row["row"]
        if name in opened.left_out:
            left_out[name] = opened.left_out[name]
        elif name in opened.own_rows:
            answer.update(opened.own_rows[name](row))
        else:
            answer.update(measure(row, opened.open))
    if arguments.reference and hasattr(opened, "logprobs"):
        answer["logprob_deviation"] = deviation(json.loads(arguments.reference.read_text()), opened.logprobs)
    elif arguments.reference:
        left_out["logprob_deviation"] = "its interface does not tell the log-probabilities of a prompt"
    print(json.dumps({**answer, "left_out": left_out}))
