// What each codec costs in quality and leaves in size: the model reads a text block by block, and every block of KV
// goes through the codec before the next one is computed on top of it, as if all of it had been in a tier.
//
//   codec_quality MODEL.gguf TEXT...
//
// Beside them KV that is int8 while it is hot (cache.kv_dtype), in which a token's own block is read back from codes
// too. Prints for each the size left, the mean Kullback-Leibler divergence of its next-token distributions from those
// of the exact KV, the mean |difference| of the log-probability of the text's token, and the change of perplexity.
// Texts are read in windows of 2,048 tokens.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "gguf/gguf_file.h"
#include "model/llama_config.h"
#include "model/llama_model.h"
#include "text/tokenizer.h"
#include "tier/codec.h"

namespace tiercel {
namespace {

constexpr std::size_t kWindowTokens = 2048;

struct Quality {
  std::string name;
  KvLayout layout;
  ModelRunner* model = nullptr;
  std::unique_ptr<BlockCodec> block_codec;
  std::unique_ptr<BlockCodec::Workspace> workspace;
  std::vector<std::byte> arena, encoded;
  std::size_t blocks = 0, encoded_bytes = 0;
  double divergence = 0, log_likelihood = 0, difference = 0;  // sums
};

Quality make_quality(std::string name, ModelRunner& model, const KvLayout& layout, Codec codec, std::size_t blocks) {
  Quality quality;
  quality.name = std::move(name);
  quality.layout = layout;
  quality.model = &model;
  quality.block_codec = make_codec(codec, layout).value();
  quality.workspace = quality.block_codec->make_workspace();
  quality.arena.resize(blocks * layout.block_stride());
  quality.encoded.resize(quality.block_codec->max_encoded_bytes());
  return quality;
}

// To log-probabilities, in place.
void normalise(std::span<float> row) {
  const float most = *std::ranges::max_element(row);
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit - most));
  const auto log_sum = most + static_cast<float>(std::log(sum));
  for (float& logit : row) logit -= log_sum;
}

double divergence(std::span<const float> exact, std::span<const float> other) {
  double sum = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    sum += std::exp(static_cast<double>(exact[i])) * static_cast<double>(exact[i] - other[i]);
  }
  return sum;
}

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(fmt::format("cannot read {}", path));
  return {std::istreambuf_iterator<char>(file), {}};
}

int run(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: codec_quality MODEL.gguf TEXT...\n");
    return 2;
  }
  GgufFile file = GgufFile::open(argv[1]).value();
  const ModelShape shape = read_llama_config(file)->shape;
  const Tokenizer tokenizer = Tokenizer::from_gguf(file).value();
  LlamaOptions options{.deterministic = true, .threads = std::max(1u, std::thread::hardware_concurrency())};
  options.max_logit_rows = options.block_tokens;
  const KvLayout layout = llama_kv_layout(shape, options);
  const auto model = load_llama(std::move(file), options).value();
  options.kv_dtype = KvDType::Int8;
  const auto coded_model = load_llama(GgufFile::open(argv[1]).value(), options).value();

  std::vector<BlockId> table(kWindowTokens / layout.block_tokens);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<BlockId>(i);
  std::vector<Quality> qualities;
  for (const Codec codec : {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4}) {
    qualities.push_back(make_quality(std::string(to_string(codec)), *model, layout, codec, table.size()));
  }
  const KvLayout coded = llama_kv_layout(shape, options);
  qualities.push_back(make_quality("hot int8", *coded_model, coded, Codec::Raw, table.size()));

  std::size_t predictions = 0;
  std::vector<float> exact;
  for (int argument = 2; argument < argc; ++argument) {
    const std::vector<TokenId> text = tokenizer.encode(read_file(argv[argument]), false).value();
    for (std::size_t first = 0; first + layout.block_tokens < text.size(); first += layout.block_tokens) {
      const std::size_t position = first % kWindowTokens;
      const auto tokens = std::span(text).subspan(first, layout.block_tokens);
      const SequenceChunk chunk{.tokens = tokens,
                                .first_position = position,
                                .block_table = table,
                                .logits = Logits::All,
                                .arithmetic = Arithmetic::Prefill};
      for (Quality& quality : qualities) {
        const std::span<float> logits = quality.model->step({&chunk, 1}, quality.arena.data()).value();
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          const auto row = logits.subspan(i * shape.vocabulary, shape.vocabulary);
          normalise(row);
          const std::size_t next = static_cast<std::size_t>(text[first + i + 1]);
          quality.log_likelihood += static_cast<double>(row[next]);
          if (&quality == qualities.data()) continue;
          quality.difference += std::abs(static_cast<double>(row[next] - exact[i * shape.vocabulary + next]));
        }
        if (&quality == qualities.data()) {
          exact.assign(logits.begin(), logits.end());
          predictions += tokens.size();
        } else {
          quality.divergence += [&] {
            double sum = 0;
            for (std::size_t i = 0; i < tokens.size(); ++i) {
              const std::size_t at = i * shape.vocabulary;
              sum += divergence(std::span(exact).subspan(at, shape.vocabulary), logits.subspan(at, shape.vocabulary));
            }
            return sum;
          }();
        }
        const auto block =
            std::span(quality.arena)
                .subspan(position / layout.block_tokens * quality.layout.block_stride(), quality.layout.block_bytes());
        const std::size_t bytes = quality.block_codec->encode(block, quality.encoded, *quality.workspace);
        const auto encoded = std::span<const std::byte>(quality.encoded).first(bytes);
        if (!quality.block_codec->decode(encoded, block, *quality.workspace).ok()) throw std::runtime_error("decode");
        quality.encoded_bytes += bytes;
        ++quality.blocks;
      }
      fmt::print(stderr, "\r{} of {} tokens", first + layout.block_tokens, text.size());
    }
    fmt::print(stderr, "\n");
  }

  const auto perplexity = [&](const Quality& quality) {
    return std::exp(-quality.log_likelihood / static_cast<double>(predictions));
  };
  fmt::print("{}, {} KV, {} predictions\n", shape.name, to_string(layout.dtype), predictions);
  fmt::print("{:<10}{:>10}{:>14}{:>14}{:>12}{:>10}\n", "codec", "size left", "KL divergence", "|log-prob|",
             "perplexity", "change");
  for (const Quality& quality : qualities) {
    const double left =
        static_cast<double>(quality.encoded_bytes) / static_cast<double>(quality.blocks * layout.block_bytes());
    fmt::print("{:<10}{:>10.3f}{:>14.6f}{:>14.6f}{:>12.4f}{:>8.2f} %\n", quality.name, left,
               quality.divergence / static_cast<double>(predictions),
               quality.difference / static_cast<double>(predictions), perplexity(quality),
               100 * (perplexity(quality) / perplexity(qualities.front()) - 1));
  }
  return 0;
}

}  // namespace
}  // namespace tiercel

int main(int argc, char** argv) {
  try {
    return tiercel::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "codec_quality: {}\n", error.what());
    return 1;
  }
}
