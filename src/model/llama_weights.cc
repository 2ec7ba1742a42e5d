#include "model/llama_weights.h"

#include <set>
#include <string>

#include <fmt/format.h>

#include "gguf/dequantize.h"
#include "gguf/tensor_slice.h"

namespace tiercel {
namespace {

// Fetches tensors by name and remembers which were asked for; the first failure stays.
class TensorReader {
 public:
  explicit TensorReader(const GgufFile& file) : file_(file) {}

  GgufTensor matrix(const std::string& name, std::uint64_t columns, std::uint64_t rows) {
    used_.insert(name);
    auto tensor = file_.get_tensor(name, {columns, rows});
    if (!tensor.ok()) return fail(tensor.status()), GgufTensor{};
    if (columns % 32 != 0)
      fail(Status::invalid_argument(
          fmt::format("{}: {} has {} columns; supported: multiples of 32", file_.path(), name, columns)));
    return *tensor;
  }
  std::vector<float> vector(const std::string& name, std::uint64_t size) {
    used_.insert(name);
    auto tensor = file_.get_tensor(name, {size});
    if (!tensor.ok()) return fail(tensor.status()), std::vector<float>{};
    std::vector<float> values(size);
    dequantize(tensor->type, tensor->data, values);
    return values;
  }
  void ignore(const std::string& name) { used_.insert(name); }

  Status finish() {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!used_.contains(tensor.name)) {
        fail(Status::invalid_argument(fmt::format(
            "{}: tensor {} is not part of the llama architecture as supported here", file_.path(), tensor.name)));
      }
    }
    return status_;
  }

 private:
  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const GgufFile& file_;
  std::set<std::string, std::less<>> used_;
  Status status_;
};

// What the layers' activations are rounded to.
struct Roundings {
  Rounding qkv, attention_output, gate_up, down, head;
};

// Rounding to bytes costs quality where a layer's activations are of very different sizes. Fast does it where that is
// least for the work it saves; measured on SmolLM2 (mean |log-prob deviation| with one kind alone in bytes; 0.0105 with
// none): attention output 0.013 for 9 % of the work of a layer, gate and up 0.026 for 50 %, down 0.024 for 25 %, Q, K
// and V 0.029 for 16 %, the head 0.024.
Roundings roundings_of(Compute compute) {
  using enum Rounding;
  switch (compute) {
    case Compute::Precise: return {None, None, None, None, None};
    case Compute::Turbo: return {Int8, Int8, Int8, Int8, Int8};
    case Compute::Fast: break;
  }
  return {.qkv = Bf16, .attention_output = Int8, .gate_up = Int8, .down = Bf16, .head = Bf16};
}

}  // namespace

Result<LlamaWeights> read_llama_weights(const GgufFile& file, const LlamaConfig& config, const ModelShard& shard,
                                        Compute compute) {
  const ModelShape& shape = config.shape;
  const std::uint64_t hidden = shape.hidden, ff = shape.feed_forward;
  const Roundings rounding = roundings_of(compute);

  TensorReader read(file);
  LlamaWeights weights;
  // Rows of outputs, columns of inputs; heads are `head_dim` of either.
  const auto scaled = [](ModelShard::Range range, std::uint32_t size) {
    return ModelShard::Range{.first = range.first * size, .count = range.count * size};
  };
  const ModelShard::Range queries = scaled(shard.heads, shape.head_dim), keys = scaled(shard.kv_heads, shape.head_dim);
  const auto rows = [&](const GgufTensor& matrix, ModelShard::Range range) {
    return shard.size == 1 || matrix.data.empty() ? matrix : slice_rows(matrix, range.first, range.count);
  };
  const auto columns = [&](const GgufTensor& matrix, ModelShard::Range range) {
    return shard.size == 1 || matrix.data.empty()
               ? matrix
               : slice_columns(matrix, range.first, range.count, weights.copies.emplace_back());
  };
  weights.embedding = read.matrix("token_embd.weight", hidden, shape.vocabulary);
  for (std::uint32_t i = 0; i < shape.layers; ++i) {
    const auto name = [&](std::string_view part) { return fmt::format("blk.{}.{}.weight", i, part); };
    const GgufTensor qkv[] = {rows(read.matrix(name("attn_q"), hidden, config.query_width()), queries),
                              rows(read.matrix(name("attn_k"), hidden, config.kv_width()), keys),
                              rows(read.matrix(name("attn_v"), hidden, config.kv_width()), keys)};
    const GgufTensor output[] = {columns(read.matrix(name("attn_output"), config.query_width(), hidden), queries)};
    const GgufTensor gate_up[] = {rows(read.matrix(name("ffn_gate"), hidden, ff), shard.feed_forward),
                                  rows(read.matrix(name("ffn_up"), hidden, ff), shard.feed_forward)};
    const GgufTensor down[] = {columns(read.matrix(name("ffn_down"), ff, hidden), shard.feed_forward)};
    weights.layers.push_back({.attention_norm = read.vector(name("attn_norm"), hidden),
                              .qkv = Linear(qkv, rounding.qkv),
                              .attention_output = Linear(output, rounding.attention_output),
                              .feed_forward_norm = read.vector(name("ffn_norm"), hidden),
                              .gate_up = Linear(gate_up, rounding.gate_up),
                              .down = Linear(down, rounding.down)});
  }
  weights.output_norm = read.vector("output_norm.weight", hidden);
  const bool tied = !file.find_tensor("output.weight");
  const GgufTensor head[] = {
      rows(tied ? weights.embedding : read.matrix("output.weight", hidden, shape.vocabulary), shard.vocabulary)};
  weights.head = Linear(head, rounding.head);
  read.ignore("rope_freqs.weight");  // part of the configuration
  TIERCEL_RETURN_IF_ERROR(read.finish());
  return weights;
}

}  // namespace tiercel
