#include "device/device_block_memory.h"

#include <cassert>

#include "base/logging.h"
#include "device/cuda_status.h"
#include "device/current_device.h"
#include "device/device_buffer.h"

namespace tiercel {

DeviceBlockMemory::DeviceBlockMemory(int device, DeviceArena arena, CudaStream within, CopyEngine loads,
                                     CopyEngine saves)
    : device_(device),
      arena_(std::move(arena)),
      within_(std::move(within)),
      loads_(std::move(loads)),
      saves_(std::move(saves)) {}

Result<std::shared_ptr<DeviceBlockMemory>> DeviceBlockMemory::reserve(std::size_t blocks, const KvLayout& layout) {
  int device = 0;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaGetDevice(&device), "asking for the current GPU"));
  auto arena = DeviceArena::reserve(blocks, layout.block_bytes());
  if (!arena.ok()) return arena.status();
  auto within = CudaStream::create();
  if (!within.ok()) return within.status();
  auto loads = CopyEngine::open(layout, DeviceLoads::layers_per_part(layout));
  auto saves = CopyEngine::open(layout, layout.layers);
  if (!loads.ok()) return loads.status();
  if (!saves.ok()) return saves.status();
  return std::shared_ptr<DeviceBlockMemory>(
      new DeviceBlockMemory(device, *std::move(arena), *std::move(within), *std::move(loads), *std::move(saves)));
}

Status DeviceBlockMemory::copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to,
                                              std::size_t tokens) const {
  const CurrentDevice current(device_);
  const BlockId touched[] = {from, to};
  TIERCEL_RETURN_IF_ERROR(settle(touched));
  assert(layout.scale_bytes() == 0);  // KV of codes is for CPUs yet
  const std::size_t row_bytes = layout.head_stride() * size_of(layout.dtype);
  const std::size_t rows = std::size_t{2} * layout.layers * layout.kv_heads;
  std::vector<void*> to_rows(rows);
  std::vector<const void*> from_rows(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    to_rows[row] = block(to) + row * row_bytes;
    from_rows[row] = block(from) + row * row_bytes;
  }
  const std::vector<std::size_t> bytes(rows, tokens * layout.head_dim * size_of(layout.dtype));
  cudaMemcpyAttributes attributes = {};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
  const std::lock_guard lock(within_mutex_);
  TIERCEL_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyBatchAsync(to_rows.data(), from_rows.data(), bytes.data(), rows, &attributes, &first, 1, within_.get()),
      "copying a part of a KV block on the GPU"));
  return within_.synchronize();
}

std::shared_ptr<std::byte> DeviceBlockMemory::allocate_host(std::size_t bytes) const {
  const CurrentDevice current(device_);
  auto pinned = PinnedBuffer::allocate(bytes, "KV blocks on their way");
  if (pinned.ok()) {
    const auto buffer = std::make_shared<PinnedBuffer>(*std::move(pinned));
    return {buffer, buffer->start()};
  }
  log().warn("{}; copies from and to the GPU are slower without", pinned.status().message());
  const std::shared_ptr<std::byte[]> memory(new std::byte[bytes]);
  return {memory, memory.get()};
}

std::vector<BlockTransfer> DeviceBlockMemory::transfers(std::span<const BlockId> blocks, std::size_t block_bytes,
                                                        std::byte* host) const {
  assert(block_bytes == stride());
  std::vector<BlockTransfer> transfers;
  transfers.reserve(blocks.size());
  for (const BlockId id : blocks) {
    transfers.push_back({.device = block(id), .host = host + transfers.size() * block_bytes});
  }
  return transfers;
}

Status DeviceBlockMemory::save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const {
  const CurrentDevice current(device_);
  TIERCEL_RETURN_IF_ERROR(settle(blocks));
  const std::lock_guard lock(saves_mutex_);
  const auto ticket = saves_.save(transfers(blocks, block_bytes, to), within_);
  return ticket.ok() ? ticket->finish() : ticket.status();
}

Result<std::uint64_t> DeviceBlockMemory::begin(const std::byte* from, std::size_t block_bytes,
                                               std::span<const BlockId> blocks) const {
  return loads_.begin(transfers(blocks, block_bytes, const_cast<std::byte*>(from)), blocks,
                      within_);  // it is read only
}

Status DeviceBlockMemory::load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const {
  const CurrentDevice current(device_);
  const auto load = begin(from, block_bytes, blocks);
  return load.ok() ? loads_.finish(*load) : load.status();
}

Result<std::uint64_t> DeviceBlockMemory::begin_load(const std::byte* from, std::size_t block_bytes,
                                                    std::span<const BlockId> blocks) const {
  if (!steps_wait_) return BlockMemory::begin_load(from, block_bytes, blocks);
  const CurrentDevice current(device_);
  return begin(from, block_bytes, blocks);
}

Status DeviceBlockMemory::finish_load(std::uint64_t load) const {
  const CurrentDevice current(device_);
  return loads_.finish(load);
}

}  // namespace tiercel
