// Reading what is in the page cache, and only that.
#pragma once

#include "tier/read_piece.h"

namespace tiercel {

// Completes the piece where all of it is in the page cache; else leaves it as it is, or completes a part.
void read_cached(ReadPiece& piece);

}  // namespace tiercel
