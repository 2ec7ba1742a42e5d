// KV blocks on their way to a GPU, each load known by a number: who needs a block waits for the load that brings it, a
// layer at a time where it can. Loads arrive in the order in which they were begun.
//
// Thread-safe. On the current GPU.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "device/copy_engine.h"
#include "device/cuda_stream.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class DeviceLoads {
 public:
  // Layers arrive together that are this part of all: one by one they would cost a call each.
  static constexpr std::size_t kParts = 8;
  static std::size_t layers_per_part(const KvLayout& layout) {
    return layout.layers < kParts ? 1 : layout.layers / kParts;
  }

  // `engine` loads layers_per_part() at a time.
  explicit DeviceLoads(CopyEngine engine) : engine_(std::move(engine)) {}
  // Waits for what is on its way.
  ~DeviceLoads();

  // Numbers begin with 1. `ids` are the transfers' blocks. Runs after what `before` has been given until now. Host
  // memory is read until the load is finished.
  Result<std::uint64_t> begin(std::span<const BlockTransfer> transfers, std::span<const BlockId> ids,
                              const CudaStream& before);
  // The newest load on its way to any of these blocks; 0: none.
  std::uint64_t newest_to(std::span<const BlockId> ids);
  // What `stream` is given from now on runs after `layer` of this load has arrived, and all of those before it.
  Status order(const CudaStream& stream, std::uint64_t load, std::size_t layer);
  // Waits for the load. Unavailable where the GPU failed: what its blocks hold is not known then.
  Status finish(std::uint64_t load);

 private:
  struct Load {
    std::uint64_t number;
    std::shared_ptr<CopyTicket> ticket;
  };
  // Under mutex_.
  void forget_arrived();
  std::shared_ptr<CopyTicket> find(std::uint64_t load) const;

  mutable std::mutex mutex_;  // also of the tickets' ends, which give events back to the engine
  CopyEngine engine_;
  std::deque<Load> under_way_;  // the oldest first
  std::uint64_t newest_ = 0;
  std::vector<std::uint64_t> last_;  // by block: the last load to it
};

}  // namespace tiercel
