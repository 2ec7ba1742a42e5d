#include "model/device_llama_weights.h"

#include <algorithm>
#include <functional>
#include <span>

#include <cuda_runtime_api.h>

#include "device/cuda_status.h"
#include "kernels/rope.h"

namespace tiercel {
namespace {

using kernels::cuda::DeviceWeights;
using kernels::cuda::WeightCode;

constexpr std::size_t kAlignment = 256;

// Places parts one after another, then fills them in that order: the memory is one piece, and the host has one part at
// a time.
class Upload {
 public:
  explicit Upload(DType dtype) : dtype_(dtype) {}

  // `part` is where it will be; `fill` writes it to host memory.
  void add(const std::byte** part, std::size_t bytes, std::function<void(std::byte*)> fill) {
    parts_.push_back({part, end_, bytes, std::move(fill)});
    end_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  void add_matrix(DeviceWeights& weights, std::span<const GgufTensor> parts) {
    // One kernel computes all parts, so they have one code.
    const WeightCode first = kernels::cuda::device_code(parts.front().type);
    const bool same = std::ranges::all_of(
        parts, [&](const GgufTensor& part) { return kernels::cuda::device_code(part.type) == first; });
    weights.code = same ? first : WeightCode::Plain;
    weights.columns = parts.front().columns();
    for (const GgufTensor& part : parts) weights.outputs += part.rows();
    const std::size_t bytes =
        kernels::cuda::device_weights_bytes(weights.code, dtype_, weights.outputs, weights.columns);
    const std::vector<GgufTensor> own(parts.begin(), parts.end());
    add(&weights.data, bytes, [own, code = weights.code, dtype = dtype_](std::byte* to) {
      std::size_t output = 0;
      for (const GgufTensor& part : own) {
        kernels::cuda::pack_device_weights(part.type, part.data.data(), part.rows(), part.columns(), code, dtype,
                                           output, to);
        output += part.rows();
      }
    });
  }

  void add_floats(const float** part, std::span<const float> values) {
    add(reinterpret_cast<const std::byte**>(part), values.size_bytes(),
        [values](std::byte* to) { std::ranges::copy(std::as_bytes(values), to); });
  }

  Result<DeviceBuffer> finish() {
    auto memory = DeviceBuffer::allocate(end_, "the model's weights");
    if (!memory.ok()) return memory.status();
    std::vector<std::byte> host;
    for (const Part& part : parts_) {
      host.assign(part.bytes, std::byte{0});
      part.fill(host.data());
      std::byte* const place = memory->start() + part.offset;
      TIERCEL_RETURN_IF_ERROR(cuda_status(cudaMemcpy(place, host.data(), part.bytes, cudaMemcpyHostToDevice),
                                          "copying weights to the GPU"));
      *part.place = place;
    }
    return memory;
  }

 private:
  struct Part {
    const std::byte** place;
    std::size_t offset, bytes;
    std::function<void(std::byte*)> fill;
  };
  const DType dtype_;
  std::vector<Part> parts_;
  std::size_t end_ = 0;
};

}  // namespace

Result<DeviceLlamaWeights> upload_llama_weights(const LlamaTensors& tensors, const LlamaConfig& config,
                                                const ModelShard& shard, std::size_t context_tokens, DType dtype) {
  DeviceLlamaWeights weights;
  weights.layers.resize(tensors.layers.size());
  Upload upload(dtype);
  if (shard.is_first_stage()) upload.add_matrix(weights.embedding, {&tensors.embedding, 1});
  for (std::size_t i = 0; i < tensors.layers.size(); ++i) {
    const LlamaLayerTensors& from = tensors.layers[i];
    DeviceLlamaLayer& to = weights.layers[i];
    upload.add_floats(&to.attention_norm, from.attention_norm);
    upload.add_matrix(to.qkv, from.qkv);
    upload.add_matrix(to.attention_output, {&from.attention_output, 1});
    upload.add_floats(&to.feed_forward_norm, from.feed_forward_norm);
    upload.add_matrix(to.gate_up, from.gate_up);
    upload.add_matrix(to.down, {&from.down, 1});
  }
  upload.add_floats(&weights.output_norm, tensors.output_norm);
  const bool tied = shard.is_first_stage() && tensors.head.data.data() == tensors.embedding.data.data() &&
                    tensors.head.data.size() == tensors.embedding.data.size();
  if (shard.is_last_stage() && !tied) upload.add_matrix(weights.head, {&tensors.head, 1});
  const std::size_t pairs = config.rope_frequencies.size();
  upload.add(reinterpret_cast<const std::byte**>(&weights.cos_sin), context_tokens * 2 * pairs * sizeof(float),
             [&](std::byte* to) {
               auto* angles = reinterpret_cast<float*>(to);
               for (std::size_t position = 0; position < context_tokens; ++position, angles += 2 * pairs) {
                 kernels::rope_angles(config.rope_frequencies.data(), pairs, position, angles);
               }
             });
  auto memory = upload.finish();
  if (!memory.ok()) return memory.status();
  weights.memory = *std::move(memory);
  if (tied) weights.head = weights.embedding;
  return weights;
}

}  // namespace tiercel
