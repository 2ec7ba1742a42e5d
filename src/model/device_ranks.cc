#include "model/device_ranks.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda_status.h"
#include "device/cuda_stream.h"
#include "device/device_buffer.h"

namespace tiercel {
namespace {

// Whether all ranks have the same, through device memory.
Status agree(Communicator& communicator, const CudaStream& stream, const Fingerprint& whole) {
  const std::size_t size = communicator.size();
  auto device = DeviceBuffer::allocate((size + 1) * sizeof(Fingerprint), "what ranks have in common");
  if (!device.ok()) return device.status();
  std::byte* const all = device->start() + sizeof(Fingerprint);
  TIERCEL_RETURN_IF_ERROR(
      cuda_status(cudaMemcpyAsync(device->start(), &whole, sizeof whole, cudaMemcpyHostToDevice, stream.get()),
                  "copying a fingerprint to the GPU"));
  TIERCEL_RETURN_IF_ERROR(communicator.all_gather(device->start(), sizeof(Fingerprint), all));
  TIERCEL_RETURN_IF_ERROR(communicator.wait());
  std::vector<Fingerprint> fingerprints(size);
  TIERCEL_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(fingerprints.data(), all, size * sizeof(Fingerprint), cudaMemcpyDeviceToHost, stream.get()),
      "copying fingerprints from the GPU"));
  TIERCEL_RETURN_IF_ERROR(stream.synchronize());
  const auto other = std::ranges::find_if(fingerprints, [&](const Fingerprint& one) { return !(one == whole); });
  if (other == fingerprints.end()) return {};
  return Status::invalid_argument(fmt::format(
      "ranks {} and {} would compute different models; give all the same file, the same tiercel and GPUs of one kind",
      communicator.rank(), other - fingerprints.begin()));
}

}  // namespace

Result<DeviceRanks> DeviceRanks::join(const ModelShape& shape, const ModelShard& shard,
                                      const OpenDeviceCommunicator& open, const CudaStream& stream,
                                      const Fingerprint& whole) {
  auto communicator = open(stream);
  if (!communicator.ok()) return communicator.status();
  TIERCEL_RETURN_IF_ERROR(agree(**communicator, stream, whole));
  auto ranks = LlamaRanks::join(**communicator, shape, shard);
  if (!ranks.ok()) return ranks.status();
  return DeviceRanks(*std::move(communicator), *std::move(ranks), stream);
}

Status DeviceRanks::add_up(void* values, std::size_t count, DType dtype) {
  return ranks_.add_up(values, count, dtype == DType::F32 ? Element::F32 : Element::BF16);
}

Status DeviceRanks::gather_logits(float* parts, std::size_t rows, float* logits) {
  TIERCEL_RETURN_IF_ERROR(ranks_.gather_logits(parts, rows));
  if (!has_logits() || rows == 0) return {};
  const auto& sources = ranks_.sources();
  const std::size_t row_bytes = (sources.back().vocabulary.first + sources.back().vocabulary.count) * sizeof(float);
  for (const LlamaRanks::Source& source : sources) {
    const auto [first, count] = source.vocabulary;
    const std::size_t bytes = count * sizeof(float);
    TIERCEL_RETURN_IF_ERROR(cuda_status(cudaMemcpy2DAsync(logits + first, row_bytes, parts, bytes, bytes, rows,
                                                          cudaMemcpyDeviceToDevice, stream_->get()),
                                        "joining the ranks' logits"));
    parts += rows * count;
  }
  return {};
}

}  // namespace tiercel
