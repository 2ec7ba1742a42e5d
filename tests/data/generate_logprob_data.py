#!/usr/bin/env python3
"""Writes logprobs.json: what a float32 transformer in numpy, independent of tiercel, thinks of some texts.

usage: pip install numpy gguf tokenizers; generate_logprob_data.py SmolLM2-135M-Instruct.Q4_1.gguf > logprobs.json

Per text: ids, and logprobs[i] = log P(ids[i + 1] | ids[..i]) by the model with its weights dequantised to float32.
"""
import json
import sys

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

TEXTS = [
    "The quick brown fox jumps over the lazy dog. Then it sleeps in the shade of an old oak tree until the evening comes.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\nprint([fibonacci(i) for i in range(20)])\n",
    "La reunión empezó a las nueve y media, pero casi nadie había leído el informe; por eso decidimos aplazarla hasta el jueves.",
    "机器学习是人工智能的一个分支。它使用数据和算法来模仿人类的学习方式，并逐步提高其准确性。",
    "In 1969, Apollo 11 carried 3 astronauts 384,400 km to the Moon. The mission took 8 days, 3 hours, 18 minutes and 35 seconds.",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is Paris.<|im_end|>\n",
    "Water boils at 100 degrees Celsius at sea level, because at that temperature its vapour pressure equals the pressure of "
    "the atmosphere. On a high mountain the pressure is lower, so water boils at a lower temperature and food takes longer to "
    "cook. In a pressure cooker the opposite happens: the pressure rises, the boiling point rises with it, and beans that would "
    "need two hours are done in thirty minutes. " * 3,
    "zzzz qqqq \u00e9\u00e8\u00ea \U0001f600\U0001f680 \t\t  mixed\r\n\r\nwhite   space ... !!! ??? ((((]]]] 0x7fffffff 3.14159e-10",
]


def silu(x):
    return x / (1 + np.exp(-x))


class Transformer:
    def __init__(self, reader):
        def number(key):
            return reader.get_field("llama." + key).contents()

        self.tensors = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.layers = number("block_count")
        self.heads = number("attention.head_count")
        self.kv_heads = number("attention.head_count_kv")
        self.epsilon = number("attention.layer_norm_rms_epsilon")
        self.rope_base = number("rope.freq_base")
        self.embedding = self.tensors["token_embd.weight"].reshape(-1, number("embedding_length"))

    def weight(self, layer, name, columns):
        return self.tensors[f"blk.{layer}.{name}.weight"].reshape(-1, columns)

    def normalise(self, x, weight):
        return x * (np.mean(np.square(x), axis=1, keepdims=True) + self.epsilon) ** -0.5 * weight

    def rotate(self, x, positions):
        pairs = x.reshape(*x.shape[:2], -1, 2)
        frequency = self.rope_base ** (-np.arange(pairs.shape[2]) / pairs.shape[2])
        turn = np.exp(1j * positions[:, None] * frequency)[:, None, :]
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape).astype(np.float32)

    def logprobs(self, ids):
        count, hidden = len(ids), self.embedding.shape[1]
        size, shared = hidden // self.heads, self.heads // self.kv_heads
        positions = np.arange(count)
        future = positions[None, :] > positions[:, None]
        x = self.embedding[ids]
        for layer in range(self.layers):
            h = self.normalise(x, self.tensors[f"blk.{layer}.attn_norm.weight"])
            q = self.rotate((h @ self.weight(layer, "attn_q", hidden).T).reshape(count, self.heads, size), positions)
            k = self.rotate((h @ self.weight(layer, "attn_k", hidden).T).reshape(count, self.kv_heads, size), positions)
            v = (h @ self.weight(layer, "attn_v", hidden).T).reshape(count, self.kv_heads, size)
            mixed = np.empty_like(q)
            for head in range(self.heads):
                scores = q[:, head] @ k[:, head // shared].T / np.float32(np.sqrt(size))
                scores[future] = -np.inf
                scores = np.exp(scores - scores.max(1, keepdims=True))
                mixed[:, head] = scores / scores.sum(1, keepdims=True) @ v[:, head // shared]
            x = x + mixed.reshape(count, -1) @ self.weight(layer, "attn_output", self.heads * size).T
            h = self.normalise(x, self.tensors[f"blk.{layer}.ffn_norm.weight"])
            inner = silu(h @ self.weight(layer, "ffn_gate", hidden).T) * (h @ self.weight(layer, "ffn_up", hidden).T)
            x = x + inner @ self.weight(layer, "ffn_down", inner.shape[1]).T
        logits = (self.normalise(x, self.tensors["output_norm.weight"]) @ self.embedding.T).astype(np.float64)
        top = logits.max(1, keepdims=True)
        logp = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        return logp[positions[:-1], ids[1:]]


def make_tokenizer(reader):
    words = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(m.split(" ")) for m in reader.get_field("tokenizer.ggml.merges").contents()]
    types = reader.get_field("tokenizer.ggml.token_type").contents()
    tokenizer = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([w for w, t in zip(words, types) if t == 3])
    return tokenizer


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    model, tokenizer = Transformer(reader), make_tokenizer(reader)
    out = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        out.append({"text": text, "ids": ids, "logprobs": [round(float(p), 4) for p in model.logprobs(np.array(ids))]})
        print(f"{len(ids)} tokens, mean {np.mean(out[-1]['logprobs']):.3f}", file=sys.stderr)
    json.dump(out, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
