#include "device/nccl_communicator.h"

namespace tiercel {

Status find_nccl() {
  return Status::unavailable(
      "this tiercel was built without NCCL, which ranks on GPUs speak by; install it (NVIDIA's package libnccl-dev) "
      "beside a CUDA 13 toolkit and build again, or use the device cpu");
}

Result<NcclId> create_nccl_id() { return find_nccl(); }

Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions&, const NcclId&,
                                                             const CudaStream&) {
  return find_nccl();
}

Result<std::unique_ptr<Communicator>> open_nccl_communicator(const CommunicatorOptions&, Communicator&,
                                                             const CudaStream&) {
  return find_nccl();
}

}  // namespace tiercel
