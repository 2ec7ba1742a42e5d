// The frame of an encoded block: planes of bytes, each entropy-coded where that saves something, else as it is.
//
// docs/codecs.md pins the bytes. A plane is coded as a zstd frame of literals only, with no search for matches: KV
// repeats no strings, but its exponents are few, and Huffman codes alone are decoded at more than a gigabyte per second
// (RFC 8878; Huffman, A Method for the Construction of Minimum-Redundancy Codes, 1952).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <zstd.h>

#include "tier/codec.h"

namespace tiercel {

// What comes before the planes: version, codec and element type, then each plane's length as stored.
inline constexpr std::size_t kPlaneHeaderBytes = 4;
inline constexpr std::size_t kPlaneLengthBytes = 4;

// The bytes of `planes` planes of `plane_bytes` in all, where nothing is saved.
constexpr std::size_t max_planes_bytes(std::size_t planes, std::size_t plane_bytes) {
  return kPlaneHeaderBytes + planes * kPlaneLengthBytes + plane_bytes;
}

// zstd's state, reused from block to block. Construction throws std::bad_alloc.
class PlaneContexts {
 public:
  PlaneContexts();
  ZSTD_CCtx* compression() { return compression_.get(); }
  ZSTD_DCtx* decompression() { return decompression_.get(); }

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, Free> compression_;
  std::unique_ptr<ZSTD_DCtx, Free> decompression_;
};

class PlaneWriter {
 public:
  // `encoded` has room for max_planes_bytes().
  PlaneWriter(std::span<std::byte> encoded, Codec codec, DType dtype, std::size_t planes, PlaneContexts& contexts);
  void add(std::span<const std::byte> plane);
  // After all planes: the bytes used.
  std::size_t encoded_bytes() const { return end_; }

 private:
  std::span<std::byte> encoded_;
  PlaneContexts& contexts_;
  std::size_t length_at_ = kPlaneHeaderBytes;
  std::size_t end_;
};

class PlaneReader {
 public:
  PlaneReader(std::span<const std::byte> encoded, PlaneContexts& contexts) : encoded_(encoded), contexts_(contexts) {}
  // Corruption where `encoded` is not `planes` planes of such a block.
  Status open(Codec codec, DType dtype, std::size_t planes);
  // The next plane: `plane_bytes` in `scratch`, which has at least so many, or where they are stored. An empty span
  // where they are damaged.
  std::span<const std::byte> next(std::size_t plane_bytes, std::span<std::byte> scratch);

 private:
  std::span<const std::byte> encoded_;
  PlaneContexts& contexts_;
  std::size_t length_at_ = kPlaneHeaderBytes;
  std::size_t end_ = 0;
};

// Every failure to decode is this one.
inline Status damaged_block() { return Status(StatusCode::Corruption, {}); }

}  // namespace tiercel
