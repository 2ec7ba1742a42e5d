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
      loads_{.mutex = {}, .engine = std::move(loads)},
      saves_{.mutex = {}, .engine = std::move(saves)} {}

Result<std::shared_ptr<DeviceBlockMemory>> DeviceBlockMemory::reserve(std::size_t blocks, const KvLayout& layout) {
  int device = 0;
  TIERCEL_RETURN_IF_ERROR(cuda_status(cudaGetDevice(&device), "asking for the current GPU"));
  auto arena = DeviceArena::reserve(blocks, layout.block_bytes());
  if (!arena.ok()) return arena.status();
  auto within = CudaStream::create();
  if (!within.ok()) return within.status();
  auto loads = CopyEngine::open(layout, layout.layers), saves = CopyEngine::open(layout, layout.layers);
  if (!loads.ok()) return loads.status();
  if (!saves.ok()) return saves.status();
  return std::shared_ptr<DeviceBlockMemory>(
      new DeviceBlockMemory(device, *std::move(arena), *std::move(within), *std::move(loads), *std::move(saves)));
}

Status DeviceBlockMemory::copy_leading_tokens(const KvLayout& layout, BlockId from, BlockId to,
                                              std::size_t tokens) const {
  const CurrentDevice current(device_);
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

template <class Begin>
Status DeviceBlockMemory::move(Copies& copies, std::span<const BlockId> blocks, std::size_t block_bytes,
                               std::byte* host, const Begin& begin) const {
  assert(block_bytes == stride());
  const CurrentDevice current(device_);
  const std::lock_guard lock(copies.mutex);
  copies.transfers.clear();
  for (const BlockId id : blocks) {
    copies.transfers.push_back({.device = block(id), .host = host});
    host += block_bytes;
  }
  const auto ticket = begin(copies.engine, copies.transfers);
  return ticket.ok() ? ticket->finish() : ticket.status();
}

Status DeviceBlockMemory::save(std::span<const BlockId> blocks, std::size_t block_bytes, std::byte* to) const {
  return move(saves_, blocks, block_bytes, to,
              [&](CopyEngine& engine, std::span<const BlockTransfer> all) { return engine.save(all, within_); });
}

Status DeviceBlockMemory::load(const std::byte* from, std::size_t block_bytes, std::span<const BlockId> blocks) const {
  return move(loads_, blocks, block_bytes, const_cast<std::byte*>(from),  // read only
              [&](CopyEngine& engine, std::span<const BlockTransfer> all) { return engine.load(all, within_); });
}

}  // namespace tiercel
