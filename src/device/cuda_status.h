// Failed calls into the CUDA runtime as Status.
#pragma once

#include <string_view>

#include <cuda_runtime_api.h>

#include "tiercel/status.h"

namespace tiercel {

// Ok for cudaSuccess. `what` begins the message: "allocating 3 GB of GPU memory". ResourceExhausted where memory ran
// out; Unavailable where there is no usable GPU, or an error that ends every further use of it in this process (a
// kernel's illegal access, hardware); Internal for what only a defect in tiercel can cause. An error that can be
// survived is forgotten by the runtime too, so that it does not surface in a later call.
Status cuda_status(cudaError_t error, std::string_view what);

}  // namespace tiercel
