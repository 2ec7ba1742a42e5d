// How the bytes of a KV block are made smaller and made again. docs/codecs.md pins what is written.
//
// Measured in bench/tier_bench.cc on the KV of a real model; quality in docs/benchmarks.md.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

// One codec for the blocks of one layout. Immutable; every method may be called by several threads at once, each with a
// workspace of its own.
class BlockCodec {
 public:
  // What encode() and decode() need besides their arguments: kept by the caller, so that nothing is allocated per
  // block.
  class Workspace {
   public:
    virtual ~Workspace() = default;
  };

  virtual ~BlockCodec() = default;
  virtual Codec codec() const = 0;
  virtual std::unique_ptr<Workspace> make_workspace() const = 0;
  // No encoded block is longer.
  virtual std::size_t max_encoded_bytes() const = 0;
  // `block` has layout.block_bytes() bytes, `encoded` max_encoded_bytes(). Returns the bytes used. Any bytes are a
  // block: NaN and infinity come back as such from Lossless, as some finite or NaN value from Int8 and Int4.
  virtual std::size_t encode(std::span<const std::byte> block, std::span<std::byte> encoded,
                             Workspace& workspace) const = 0;
  // Corruption where `encoded` is not the encoding of a block; `block` is then unspecified. Safe for any bytes.
  virtual Status decode(std::span<const std::byte> encoded, std::span<std::byte> block, Workspace& workspace) const = 0;
};

// Whether there is such a codec for elements of this type: codes are not rounded to other codes.
constexpr bool is_codec_for(Codec codec, DType dtype) {
  return dtype != DType::Int8 || (codec != Codec::Int8 && codec != Codec::Int4);
}

// InvalidArgument for an empty layout, one whose blocks have over 2 GiB, and where there is no such codec. Where a
// codec cannot work on a layout (groups of 64 values in heads of 80), it says how it groups instead; no other layout is
// refused.
Result<std::unique_ptr<BlockCodec>> make_codec(Codec codec, const KvLayout& layout);

}  // namespace tiercel
