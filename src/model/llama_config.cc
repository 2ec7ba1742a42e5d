#include "model/llama_config.h"

#include <cmath>
#include <cstring>

#include <fmt/format.h>

namespace tiercel {
namespace {

// Reads the keys of one model; the first failure stays and later reads give the fallback.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  std::uint32_t required(const std::string& key, std::uint64_t minimum, std::uint64_t maximum) {
    auto value = file_.get_uint(key);
    if (!value.ok()) return fail(value.status()), 0;
    if (*value < minimum || *value > maximum) {
      fail(Status::invalid_argument(
          fmt::format("{}: {} is {}; supported: {} to {}", file_.path(), key, *value, minimum, maximum)));
      return 0;
    }
    return static_cast<std::uint32_t>(*value);
  }
  std::uint32_t optional(const std::string& key, std::uint32_t fallback, std::uint64_t minimum, std::uint64_t maximum) {
    return file_.find(key) ? required(key, minimum, maximum) : fallback;
  }
  double optional_float(const std::string& key, double fallback) {
    if (!file_.find(key)) return fallback;
    auto value = file_.get_float(key);
    if (!value.ok()) return fail(value.status()), fallback;
    return *value;
  }
  std::string optional_string(const std::string& key, std::string fallback) {
    if (!file_.find(key)) return fallback;
    auto value = file_.get_string(key);
    if (!value.ok()) return fail(value.status()), fallback;
    return std::string(*value);
  }

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const Status& status() const { return status_; }

 private:
  const GgufFile& file_;
  Status status_;
};

}  // namespace

LlamaConfig LlamaConfig::part(const ModelShard& shard) const {
  LlamaConfig part = *this;
  if (shard.size == 1) return part;
  part.shape.heads = shard.heads.count;
  part.shape.kv_heads = shard.kv_heads.count;
  part.shape.feed_forward = shard.feed_forward.count;
  return part;
}

Result<LlamaConfig> read_llama_config(const GgufFile& file) {
  auto architecture = file.get_string("general.architecture");
  if (!architecture.ok()) return architecture.status();
  const auto invalid = [&](std::string what) { return Status::invalid_argument(file.path() + ": " + std::move(what)); };
  if (*architecture != "llama") {
    return invalid(fmt::format("architecture '{}' is not supported; supported: llama (Llama, Mistral, SmolLM, ...)",
                               *architecture));
  }

  Reader read(file);
  LlamaConfig config;
  ModelShape& shape = config.shape;
  shape.architecture = *architecture;
  shape.name = read.optional_string("general.name", "");
  shape.layers = read.required("llama.block_count", 1, 1024);
  shape.hidden = read.required("llama.embedding_length", 32, 1 << 17);
  shape.heads = read.required("llama.attention.head_count", 1, 1024);
  shape.kv_heads = read.optional("llama.attention.head_count_kv", shape.heads, 1, 1024);
  shape.feed_forward = read.required("llama.feed_forward_length", 32, 1 << 20);
  shape.context_tokens = read.required("llama.context_length", 1, 1 << 24);
  config.norm_epsilon = static_cast<float>(read.optional_float("llama.attention.layer_norm_rms_epsilon", 1e-5));
  if (!read.status().ok()) return read.status();
  if (read.optional("llama.expert_count", 0, 0, 1 << 16) != 0)
    return invalid("mixture-of-experts models are not supported");
  shape.head_dim = read.optional("llama.attention.key_length", shape.hidden / shape.heads, 1, 1 << 16);
  const auto value_dim = read.optional("llama.attention.value_length", shape.head_dim, 1, 1 << 16);
  const auto rotated = read.optional("llama.rope.dimension_count", shape.head_dim, 2, shape.head_dim);
  const double base = read.optional_float("llama.rope.freq_base", 10000.0);
  const auto scaling = read.optional_string("llama.rope.scaling.type", "none");
  double factor = read.optional_float("llama.rope.scale_linear", 1.0);  // the older name
  if (scaling == "linear") factor = read.optional_float("llama.rope.scaling.factor", factor);
  if (!read.status().ok()) return read.status();

  if (shape.heads % shape.kv_heads != 0) {
    return invalid(fmt::format("{} query heads cannot share {} KV heads evenly", shape.heads, shape.kv_heads));
  }
  if (shape.head_dim % 16 != 0 || shape.head_dim > 512 || value_dim != shape.head_dim) {
    return invalid(fmt::format("head size {} (keys) and {} (values); supported: equal, a multiple of 16, at most 512",
                               shape.head_dim, value_dim));
  }
  if (scaling != "none" && scaling != "linear") {
    return invalid(
        fmt::format("RoPE scaling '{}' is not supported; supported: none, linear, and Llama 3's rope_freqs", scaling));
  }
  if (!(base > 1) || !(factor > 0) || !std::isfinite(base) || !std::isfinite(factor) || rotated % 2 != 0 ||
      !(config.norm_epsilon > 0)) {
    return invalid(fmt::format("RoPE base {}, factor {}, rotated size {} or norm epsilon {} is out of range", base,
                               factor, rotated, config.norm_epsilon));
  }

  config.rope_frequencies.resize(rotated / 2);
  for (std::size_t i = 0; i < config.rope_frequencies.size(); ++i) {
    config.rope_frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / rotated) / factor;
  }
  // Llama 3's long-context scaling: GGUF stores the divisor of each frequency as a tensor.
  if (const GgufTensor* divisors = file.find_tensor("rope_freqs.weight")) {
    if (divisors->type != TensorType::F32 || divisors->columns() != rotated / 2 || divisors->rows() != 1) {
      return invalid(fmt::format("rope_freqs.weight must be F32 of {} elements", rotated / 2));
    }
    for (std::size_t i = 0; i < config.rope_frequencies.size(); ++i) {
      float divisor;
      std::memcpy(&divisor, divisors->data.data() + i * sizeof divisor, sizeof divisor);
      if (!(divisor > 0)) return invalid(fmt::format("rope_freqs.weight[{}] is {}; it must be above 0", i, divisor));
      config.rope_frequencies[i] /= divisor;
    }
  }

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding) return invalid("tensor token_embd.weight is missing");
  shape.vocabulary = static_cast<std::uint32_t>(embedding->rows());
  for (const GgufTensor& tensor : file.tensors()) shape.parameters += tensor.columns() * tensor.rows();
  return config;
}

}  // namespace tiercel
