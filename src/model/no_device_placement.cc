#include "model/device_placement.h"

namespace tiercel {
namespace {

Status built_without() {
  return Status::unavailable(
      "this tiercel was built without CUDA; use the device cpu, or build it where there is a CUDA 13 toolkit");
}

}  // namespace

Result<DevicePlacement> place_on_device(const GgufFile&, const DeviceLlamaOptions&) { return built_without(); }

Result<std::shared_ptr<const BlockMemory>> reserve_device_blocks(int, const KvLayout&, std::size_t) {
  return built_without();
}

}  // namespace tiercel
