// The codecs behind make_codec(). Each throws std::bad_alloc; layouts are checked by make_codec().
#pragma once

#include <memory>

#include "tier/codec.h"

namespace tiercel {

std::unique_ptr<BlockCodec> make_lossless_codec(const KvLayout& layout);
std::unique_ptr<BlockCodec> make_int8_codec(const KvLayout& layout);
std::unique_ptr<BlockCodec> make_int4_codec(const KvLayout& layout);

}  // namespace tiercel
