#include "device/copy_engine.h"

#include <algorithm>
#include <cassert>

#include "device/cuda_status.h"

namespace tiercel {

CopyTicket::CopyTicket(CopyTicket&& other) noexcept
    : engine_(std::exchange(other.engine_, nullptr)),
      layers_per_event_(other.layers_per_event_),
      events_(std::move(other.events_)) {}

CopyTicket::~CopyTicket() {
  if (engine_ == nullptr) return;
  (void)finish();  // a broken GPU copies nothing any more
  for (CudaEvent& event : events_) engine_->free_events_.push_back(std::move(event));
}

Status CopyTicket::order(const CudaStream& stream, std::size_t layer) const {
  return stream.wait(events_[std::min(layer / layers_per_event_, events_.size() - 1)]);
}

Result<bool> CopyTicket::arrived() const { return events_.back().reached(); }

Status CopyTicket::finish() const { return events_.empty() ? Status() : events_.back().synchronize(); }

CopyEngine::CopyEngine(const KvLayout& layout, std::size_t layers_per_event, CudaStream loads, CudaStream saves,
                       CudaEvent computed)
    : layers_(layout.layers),
      layer_bytes_(layout.block_bytes() / layout.layers),
      layers_per_event_(layers_per_event),
      loads_(std::move(loads)),
      saves_(std::move(saves)),
      computed_(std::move(computed)) {}

Result<CopyEngine> CopyEngine::open(const KvLayout& layout, std::size_t layers_per_event) {
  assert(layers_per_event >= 1 && layers_per_event <= layout.layers);
  auto loads = CudaStream::create();
  if (!loads.ok()) return loads.status();
  auto saves = CudaStream::create();
  if (!saves.ok()) return saves.status();
  auto computed = CudaEvent::create();
  if (!computed.ok()) return computed.status();
  return CopyEngine(layout, layers_per_event, std::move(*loads), std::move(*saves), std::move(*computed));
}

Result<CopyTicket> CopyEngine::load(std::span<const BlockTransfer> blocks, const CudaStream& computing) {
  CopyTicket ticket(this, layers_per_event_);
  TIERCEL_RETURN_IF_ERROR(begin(ticket, blocks, Direction::ToDevice, computing));
  return ticket;
}

Result<CopyTicket> CopyEngine::save(std::span<const BlockTransfer> blocks, const CudaStream& computing) {
  CopyTicket ticket(this, layers_);
  TIERCEL_RETURN_IF_ERROR(begin(ticket, blocks, Direction::ToHost, computing));
  return ticket;
}

Status CopyEngine::begin(CopyTicket& ticket, std::span<const BlockTransfer> blocks, Direction direction,
                         const CudaStream& computing) {
  const CudaStream& stream = direction == Direction::ToDevice ? loads_ : saves_;
  TIERCEL_RETURN_IF_ERROR(computed_.record(computing));
  TIERCEL_RETURN_IF_ERROR(stream.wait(computed_));
  for (std::size_t layer = 0; layer < layers_; layer += ticket.layers_per_event_) {
    const std::size_t layers = std::min(ticket.layers_per_event_, layers_ - layer);
    auto event = take_event();
    Status status = event.status();
    if (status.ok()) status = copy(blocks, direction, layer * layer_bytes_, layers * layer_bytes_);
    if (status.ok()) status = event->record(stream);
    if (!status.ok()) {
      (void)stream.synchronize();  // what was begun before must not go on behind the caller's back
      return status;
    }
    ticket.events_.push_back(std::move(*event));
  }
  return {};
}

Status CopyEngine::copy(std::span<const BlockTransfer> blocks, Direction direction, std::size_t offset,
                        std::size_t bytes) {
  if (blocks.empty()) return {};
  const bool to_device = direction == Direction::ToDevice;
  to_.clear();
  from_.clear();
  for (const BlockTransfer& block : blocks) {
    to_.push_back((to_device ? block.device : block.host) + offset);
    from_.push_back((to_device ? block.host : block.device) + offset);
  }
  bytes_.assign(blocks.size(), bytes);
  cudaMemcpyAttributes attributes = {};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
  return cuda_status(cudaMemcpyBatchAsync(to_.data(), from_.data(), bytes_.data(), blocks.size(), &attributes, &first,
                                          1, (to_device ? loads_ : saves_).get()),
                     to_device ? "copying KV blocks to the GPU" : "copying KV blocks from the GPU");
}

Result<CudaEvent> CopyEngine::take_event() {
  if (free_events_.empty()) return CudaEvent::create();
  CudaEvent event = std::move(free_events_.back());
  free_events_.pop_back();
  return event;
}

}  // namespace tiercel
