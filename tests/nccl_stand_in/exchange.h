// What an operation does with the memory of its ranks. Compiled with the sanitizers, which are to see it.
#pragma once

#include "tests/nccl_stand_in/world.h"

namespace nccl_stand_in {

// All sides are there. Sums are rounded after each addition, and begin at another rank for each piece of the memory, as
// NCCL's rings do: an element's bits depend on what is summed beside it.
void exchange(const Meeting& meeting);

}  // namespace nccl_stand_in
