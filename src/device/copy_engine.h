// Moves KV blocks between GPU and pinned host memory beside the computation: one stream in each direction, many blocks
// by one call.
//
// A load comes layer by layer: a prompt's first layers can be computed while the KV of later ones is still on its way.
// A save never runs on the stream that computes. Both are ordered after what the computing stream has been given until
// then, so that a block is neither overwritten while a kernel still reads it, nor saved before a kernel has written it.
//
// Not thread-safe. An engine outlives its transfers, and is not moved while there are any; the memory of a transfer's
// blocks must outlive the transfer.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "device/cuda_stream.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

struct BlockTransfer {
  std::byte* device = nullptr;
  std::byte* host = nullptr;  // pinned
};

class CopyEngine;

// Blocks on their way. Its end waits for them, so that nobody else is given a block that is still being copied.
// Move-only.
class CopyTicket {
 public:
  CopyTicket(CopyTicket&& other) noexcept;
  CopyTicket& operator=(CopyTicket&& other) = delete;
  ~CopyTicket();

  // What `stream` is given from now on runs after this layer of all blocks has arrived (of a save: after all of it).
  Status order(const CudaStream& stream, std::size_t layer) const;
  // Whether all has arrived. Unavailable where the GPU failed: what the blocks hold is not known then.
  Result<bool> arrived() const;
  Status finish() const;

 private:
  friend class CopyEngine;
  CopyTicket(CopyEngine* engine, std::size_t layers_per_event) : engine_(engine), layers_per_event_(layers_per_event) {}

  CopyEngine* engine_;  // null where moved from
  std::size_t layers_per_event_;
  std::vector<CudaEvent> events_;  // in the order of layers
};

class CopyEngine {
 public:
  // `layers_per_event`: how many layers arrive together, 1 to layout.layers. Fewer let the computation begin earlier,
  // and cost a call each.
  static Result<CopyEngine> open(const KvLayout& layout, std::size_t layers_per_event);

  Result<CopyTicket> load(std::span<const BlockTransfer> blocks, const CudaStream& computing);
  Result<CopyTicket> save(std::span<const BlockTransfer> blocks, const CudaStream& computing);

 private:
  friend class CopyTicket;
  enum class Direction { ToDevice, ToHost };

  CopyEngine(const KvLayout& layout, std::size_t layers_per_event, CudaStream loads, CudaStream saves,
             CudaEvent computed);
  Status begin(CopyTicket& ticket, std::span<const BlockTransfer> blocks, Direction direction,
               const CudaStream& computing);
  Status copy(std::span<const BlockTransfer> blocks, Direction direction, std::size_t offset, std::size_t bytes);
  Result<CudaEvent> take_event();

  std::size_t layers_, layer_bytes_, layers_per_event_;
  CudaStream loads_, saves_;
  CudaEvent computed_;
  std::vector<CudaEvent> free_events_;
  std::vector<void*> to_;  // of one call, kept so that none allocates
  std::vector<const void*> from_;
  std::vector<std::size_t> bytes_;
};

}  // namespace tiercel
