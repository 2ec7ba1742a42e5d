#include "model/llama_tensors.h"

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

}  // namespace

Result<LlamaTensors> read_llama_tensors(const GgufFile& file, const LlamaConfig& config, const ModelShard& shard) {
  const ModelShape& shape = config.shape;
  const std::uint64_t hidden = shape.hidden, ff = shape.feed_forward;

  TensorReader read(file);
  LlamaTensors tensors;
  // Rows of outputs, columns of inputs; heads are `head_dim` of either.
  const auto scaled = [](ModelShard::Range range, std::uint32_t size) {
    return ModelShard::Range{.first = range.first * size, .count = range.count * size};
  };
  const ModelShard::Range queries = scaled(shard.heads, shape.head_dim), keys = scaled(shard.kv_heads, shape.head_dim);
  const auto mapped = [&](const GgufTensor& view) {
    tensors.mapped_bytes += view.data.size();
    return view;
  };
  const bool is_whole = shard.stage_ranks() == 1;
  const auto cut = [&](const GgufTensor& matrix, ModelShard::Range range) {
    return is_whole || matrix.data.empty() ? matrix : slice_rows(matrix, range.first, range.count);
  };
  const auto rows = [&](const GgufTensor& matrix, ModelShard::Range range) { return mapped(cut(matrix, range)); };
  const auto columns = [&](const GgufTensor& matrix, ModelShard::Range range) {
    return is_whole || matrix.data.empty()
               ? mapped(matrix)
               : slice_columns(matrix, range.first, range.count, tensors.copies.emplace_back());
  };
  tensors.embedding = read.matrix("token_embd.weight", hidden, shape.vocabulary);
  const ModelShard::Range own = shard.size == 1 ? ModelShard::Range{0, shape.layers} : shard.layers;
  for (std::uint32_t i = 0; i < shape.layers; ++i) {
    const auto name = [&](std::string_view part) { return fmt::format("blk.{}.{}.weight", i, part); };
    LlamaLayerTensors layer{
        .attention_norm = read.vector(name("attn_norm"), hidden),
        .qkv = {read.matrix(name("attn_q"), hidden, config.query_width()),
                read.matrix(name("attn_k"), hidden, config.kv_width()),
                read.matrix(name("attn_v"), hidden, config.kv_width())},
        .attention_output = read.matrix(name("attn_output"), config.query_width(), hidden),
        .feed_forward_norm = read.vector(name("ffn_norm"), hidden),
        .gate_up = {read.matrix(name("ffn_gate"), hidden, ff), read.matrix(name("ffn_up"), hidden, ff)},
        .down = read.matrix(name("ffn_down"), ff, hidden)};
    if (i < own.first || i >= own.first + own.count) continue;  // it is as it must be, and another stage's
    layer.qkv = {rows(layer.qkv[0], queries), rows(layer.qkv[1], keys), rows(layer.qkv[2], keys)};
    layer.attention_output = columns(layer.attention_output, queries);
    layer.gate_up = {rows(layer.gate_up[0], shard.feed_forward), rows(layer.gate_up[1], shard.feed_forward)};
    layer.down = columns(layer.down, shard.feed_forward);
    tensors.layers.push_back(std::move(layer));
  }
  tensors.output_norm = read.vector("output_norm.weight", hidden);
  const bool tied = !file.find_tensor("output.weight");
  const GgufTensor head = tied ? tensors.embedding : read.matrix("output.weight", hidden, shape.vocabulary);
  if (shard.is_first_stage()) mapped(tensors.embedding);
  if (shard.is_last_stage()) {
    tensors.head = cut(head, shard.vocabulary);
    if (!tied || !shard.is_first_stage()) mapped(tensors.head);
  }
  read.ignore("rope_freqs.weight");  // part of the configuration
  TIERCEL_RETURN_IF_ERROR(read.finish());
  return tensors;
}

}  // namespace tiercel
