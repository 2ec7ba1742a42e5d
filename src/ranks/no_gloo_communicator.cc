#include "ranks/gloo_communicator.h"

namespace tiercel {

Result<std::unique_ptr<Communicator>> open_gloo_communicator(const CommunicatorOptions&) {
  return Status::unavailable(
      "this tiercel was built without Gloo, which ranks need; install it (Debian: libgloo-dev) and build again");
}

}  // namespace tiercel
