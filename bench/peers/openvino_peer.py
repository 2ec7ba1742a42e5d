"""OpenVINO GenAI on the workload of tiercel bench: continuous batching, prefix caching, 2 GB of KV.

    python -m openvino_peer --model FILE --workload FILE [--threads N]
"""

import contextlib
import subprocess
import sys
import time

import rows


class OpenVino:
    left_out = {"restart": "its cache ends with the process"}

    def __init__(self, model, threads):
        import openvino_genai
        self.genai = openvino_genai
        self.version = openvino_genai.__version__
        self.model, self.threads = model, threads
        self.pipeline = None
        self.own_rows = {"load": self.load}

    def pipeline_of_model(self):
        scheduler = self.genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = 1024
        scheduler.max_num_seqs = 100
        properties = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return self.genai.LLMPipeline(self.model, "CPU", scheduler_config=scheduler, **properties)

    @contextlib.contextmanager
    def open(self, together, context_tokens):
        """One pipeline for all rows, as tiercel has one engine for all."""
        self.pipeline = self.pipeline or self.pipeline_of_model()
        yield self

    def answer(self, prompts, tokens, chat):
        config = self.genai.GenerationConfig()
        config.ignore_eos = True
        config.apply_chat_template = chat
        config.max_new_tokens = tokens
        return self.pipeline.generate(prompts, config)

    def decode_tok_s(self, prompt, tokens):
        return 1e3 / self.answer([prompt], tokens, False).perf_metrics.get_tpot().mean

    def load(self, row):
        """Python's own start is not counted, the loading of the library is."""
        command = [sys.executable, __file__, self.model, str(self.threads), row["prompts"][0]]
        return {"load_ms": min(float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(3))}


def print_load_ms(model, threads, prompt):
    start = time.perf_counter()
    peer = OpenVino(model, int(threads))
    with peer.open(1, 0):
        peer.answer([prompt], 1, False)
    print(1e3 * (time.perf_counter() - start))


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        print_load_ms(*sys.argv[1:])
    else:
        rows.main("OpenVINO GenAI", OpenVino)
