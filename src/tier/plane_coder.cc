#include "tier/plane_coder.h"

#include <cassert>
#include <cstring>
#include <new>

namespace tiercel {
namespace {

constexpr std::byte kVersion{1};
constexpr std::uint32_t kZstdMagic = 0xFD2FB528;
// A plane that would keep more than 31/32 of its size is not worth the time to decode it.
constexpr std::size_t kLeastSaving = 32;

// Little-endian, as everything that is stored.
void put_word(std::byte* to, std::uint32_t word) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<std::byte>(word >> (8 * i));
}

std::uint32_t get_word(const std::byte* from) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= std::to_integer<std::uint32_t>(from[i]) << (8 * i);
  return word;
}

}  // namespace

PlaneContexts::PlaneContexts() : compression_(ZSTD_createCCtx()), decompression_(ZSTD_createDCtx()) {
  if (compression_ == nullptr || decompression_ == nullptr) throw std::bad_alloc();
  const auto set = [&](ZSTD_cParameter parameter, int value) {
    ZSTD_CCtx_setParameter(compression_.get(), parameter, value);
  };
  // The search for matches takes steps of 128 KiB: it finds none. Blocks of 128 KiB have a table of codes each.
  set(ZSTD_c_strategy, ZSTD_fast);
  set(ZSTD_c_targetLength, 1 << 17);
  set(ZSTD_c_minMatch, 7);
  set(ZSTD_c_hashLog, 6);
  set(ZSTD_c_windowLog, 17);
  // zstd leaves literals as they are where it searches so little, unless told (ZSTD_c_literalCompressionMode, enabled;
  // a name for static linking only, though the shared library takes it). Where it were refused, planes stay large.
  set(ZSTD_c_experimentalParam5, 1);
}

PlaneWriter::PlaneWriter(std::span<std::byte> encoded, Codec codec, DType dtype, std::size_t planes,
                         PlaneContexts& contexts)
    : encoded_(encoded), contexts_(contexts), end_(max_planes_bytes(planes, 0)) {
  assert(encoded.size() >= end_);
  encoded[0] = kVersion;
  encoded[1] = static_cast<std::byte>(codec);
  encoded[2] = static_cast<std::byte>(dtype);
  encoded[3] = std::byte{0};
}

void PlaneWriter::add(std::span<const std::byte> plane) {
  assert(encoded_.size() - end_ >= plane.size());
  std::byte* const to = encoded_.data() + end_;
  const std::size_t most = plane.size() - plane.size() / kLeastSaving;
  std::size_t stored = ZSTD_compress2(contexts_.compression(), to, most, plane.data(), plane.size());
  // Too long for `most` is an error of zstd's, and as good as any other reason to store the plane as it is.
  if (ZSTD_isError(stored) || stored >= plane.size()) {
    std::memcpy(to, plane.data(), plane.size());
    stored = plane.size();
  }
  put_word(encoded_.data() + length_at_, static_cast<std::uint32_t>(stored));
  length_at_ += kPlaneLengthBytes;
  end_ += stored;
}

Status PlaneReader::open(Codec codec, DType dtype, std::size_t planes) {
  const std::size_t begin = max_planes_bytes(planes, 0);
  if (encoded_.size() < begin || encoded_[0] != kVersion || encoded_[1] != static_cast<std::byte>(codec) ||
      encoded_[2] != static_cast<std::byte>(dtype) || encoded_[3] != std::byte{0}) {
    return damaged_block();
  }
  std::size_t stored = 0;
  for (std::size_t i = 0; i < planes; ++i) {
    stored += get_word(encoded_.data() + kPlaneHeaderBytes + i * kPlaneLengthBytes);
  }
  if (stored != encoded_.size() - begin) return damaged_block();
  end_ = begin;
  return {};
}

std::span<const std::byte> PlaneReader::next(std::size_t plane_bytes, std::span<std::byte> scratch) {
  assert(scratch.size() >= plane_bytes);
  const std::size_t stored_bytes = get_word(encoded_.data() + length_at_);
  const auto stored = encoded_.subspan(end_, stored_bytes);
  length_at_ += kPlaneLengthBytes;
  end_ += stored_bytes;
  if (stored_bytes == plane_bytes) return stored;
  // Exactly one frame of today's format: older ones, which zstd may also read, were never hardened against any bytes.
  if (stored_bytes < 4 || get_word(stored.data()) != kZstdMagic ||
      ZSTD_findFrameCompressedSize(stored.data(), stored_bytes) != stored_bytes ||
      ZSTD_decompressDCtx(contexts_.decompression(), scratch.data(), plane_bytes, stored.data(), stored_bytes) !=
          plane_bytes) {
    return {};
  }
  return scratch.first(plane_bytes);
}

}  // namespace tiercel
