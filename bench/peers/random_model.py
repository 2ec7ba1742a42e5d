"""Writes a Llama-family GGUF file with random Q4_1 weights in the shapes of a 1 B-class model: for measuring speed on other
shapes than those of the model at hand, from which the tokenizer is taken. What it answers has no meaning.

    python random_model.py --tokenizer-of FILE --output FILE [--layers 16]

Needs the package gguf (bench/peers/setup installs it).
"""

import argparse

import gguf
import numpy

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 2048, 8192, 32, 8, 64, 8192
GROUP = 32  # weights of a Q4_1 block


def q4_1(random, rows, columns):
    """Blocks of scale, least value and 32 nibbles, so that weights are even between -s and s with s = sqrt(3 / columns):
    activations keep their size from layer to layer."""
    size = (3 / columns) ** 0.5
    blocks = numpy.empty((rows, columns // GROUP), dtype=[("d", "<f2"), ("m", "<f2"), ("q", "u1", GROUP // 2)])
    blocks["d"], blocks["m"] = 2 * size / 15, -size
    blocks["q"] = random.integers(0, 256, (rows, columns // GROUP, GROUP // 2), dtype=numpy.uint8)
    return blocks.view(numpy.uint8).reshape(rows, -1)


def copy_tokenizer(reader, writer):
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        element = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], element)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def main():
    parser = argparse.ArgumentParser(description="Writes a Llama-family GGUF file with random weights.")
    parser.add_argument("--tokenizer-of", required=True, help="GGUF file")
    parser.add_argument("--output", required=True, help="GGUF file to write")
    parser.add_argument("--layers", type=int, default=16)
    arguments = parser.parse_args()
    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(arguments.output, "llama")
    vocabulary = copy_tokenizer(gguf.GGUFReader(arguments.tokenizer_of), writer)
    writer.add_name(f"random {HIDDEN}x{arguments.layers}")
    writer.add_block_count(arguments.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)

    def matrix(name, rows, columns):
        writer.add_tensor(name, q4_1(random, rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_1)

    def norm(name):
        writer.add_tensor(name, numpy.ones(HIDDEN, dtype=numpy.float32))

    matrix("token_embd.weight", vocabulary, HIDDEN)
    norm("output_norm.weight")
    for layer in range(arguments.layers):
        prefix = f"blk.{layer}."
        norm(prefix + "attn_norm.weight")
        matrix(prefix + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(prefix + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(prefix + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(prefix + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        norm(prefix + "ffn_norm.weight")
        matrix(prefix + "ffn_gate.weight", FEED_FORWARD, HIDDEN)
        matrix(prefix + "ffn_up.weight", FEED_FORWARD, HIDDEN)
        matrix(prefix + "ffn_down.weight", HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
