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
        self.pipeline = self.scoring = None
        self.own_rows = {"load": self.load}

    def scheduler(self):
        scheduler = self.genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = 1024
        scheduler.max_num_seqs = 100
        return scheduler

    def properties(self):
        return {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}

    @contextlib.contextmanager
    def open(self, together, context_tokens):
        """One pipeline for all rows, as tiercel has one engine for all."""
        self.pipeline = self.pipeline or self.genai.LLMPipeline(self.model, "CPU", scheduler_config=self.scheduler(),
                                                                **self.properties())
        yield self

    def answer(self, prompts, tokens, chat):
        config = self.genai.GenerationConfig()
        config.ignore_eos = True
        config.apply_chat_template = chat
        config.max_new_tokens = tokens
        return self.pipeline.generate(prompts, config)

    def decode_tok_s(self, prompt, tokens):
        return 1e3 / self.answer([prompt], tokens, False).perf_metrics.get_tpot().mean

    def logprobs(self, ids):
        """LLMPipeline does not tell them; the pipeline that it is built on echoes them with the prompt."""
        import numpy
        import openvino
        self.pipeline = None
        self.scoring = self.scoring or self.genai.ContinuousBatchingPipeline(self.model, self.scheduler(), "CPU",
                                                                             self.properties())
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.logprobs, config.echo, config.ignore_eos = 1, 1, True, True
        handle = self.scoring.add_request(0, openvino.Tensor(numpy.array([ids], dtype=numpy.int64)), config)
        while self.scoring.has_non_finished_requests():
            self.scoring.step()
        return list(handle.read_all()[0].generated_log_probs)[1:len(ids)]

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
