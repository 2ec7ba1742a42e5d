#include "ranks/gloo_communicator.h"

namespace tiercel {

Result<std::unique_ptr<Communicator>> open_gloo_communicator(const CommunicatorOptions&) {
  return Status::unavailable(
      "this tiercel was built without Gloo; install it (Debian: libgloo-dev) and build again, or take the transport "
      "tcp");
}

}  // namespace tiercel
