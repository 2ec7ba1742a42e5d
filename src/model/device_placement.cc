#include "model/device_placement.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "device/cuda_devices.h"
#include "device/cuda_status.h"
#include "device/current_device.h"
#include "device/device_arena.h"
#include "device/device_block_memory.h"

namespace tiercel {
namespace {

// The rest is for what the CUDA runtime takes itself: kernels, graphs.
constexpr double kShareOfFreeMemory = 0.9;

}  // namespace

Result<DevicePlacement> place_on_device(const GgufFile& file, const DeviceLlamaOptions& options) {
  const auto device = find_cuda_device(options.device);
  if (!device.ok()) return device.status();
  auto model = load_device_llama(file, options);
  if (!model.ok()) return model.status();
  return DevicePlacement{.device = device->name, .model = *std::move(model)};
}

Result<std::shared_ptr<const BlockMemory>> reserve_device_blocks(int device, const KvLayout& layout,
                                                                 std::size_t capacity_bytes) {
  const CurrentDevice current(device);
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaSetDevice(device), fmt::format("using GPU {}", device)));
  std::size_t blocks = capacity_bytes / layout.block_bytes();
  if (capacity_bytes == 0) {
    const auto fit = device_blocks_that_fit(layout.block_bytes(), 0, kShareOfFreeMemory);
    if (!fit.ok()) return fit.status();
    blocks = *fit;
  }
  if (blocks == 0) {
    return Status::invalid_argument(fmt::format("cache.capacity_bytes is {}, less than a KV block of {} bytes",
                                                capacity_bytes, layout.block_bytes()));
  }
  auto memory = DeviceBlockMemory::reserve(blocks, layout);
  if (!memory.ok()) return memory.status();
  return std::shared_ptr<const BlockMemory>(*std::move(memory));
}

}  // namespace tiercel
