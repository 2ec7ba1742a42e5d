#include "tier/codec.h"

#include <cstring>
#include <limits>
#include <new>

#include <fmt/format.h>

#include "tier/block_codecs.h"

namespace tiercel {
namespace {

class RawCodec final : public BlockCodec {
 public:
  explicit RawCodec(std::size_t block_bytes) : block_bytes_(block_bytes) {}

  Codec codec() const override { return Codec::Raw; }
  std::unique_ptr<Workspace> make_workspace() const override { return std::make_unique<Workspace>(); }
  std::size_t max_encoded_bytes() const override { return block_bytes_; }
  std::size_t encode(std::span<const std::byte> block, std::span<std::byte> encoded, Workspace&) const override {
    std::memcpy(encoded.data(), block.data(), block_bytes_);
    return block_bytes_;
  }
  Status decode(std::span<const std::byte> encoded, std::span<std::byte> block, Workspace&) const override {
    if (encoded.size() != block_bytes_) return Status(StatusCode::Corruption, {});
    std::memcpy(block.data(), encoded.data(), block_bytes_);
    return {};
  }

 private:
  const std::size_t block_bytes_;
};

}  // namespace

Result<std::unique_ptr<BlockCodec>> make_codec(Codec codec, const KvLayout& layout) try {
  if (layout.block_bytes() == 0) {
    return Status::invalid_argument(
        "the KV layout is empty; give at least one layer, KV head, value per head and token");
  }
  // Lengths are stored in 32 bits.
  if (layout.block_bytes() > std::numeric_limits<std::uint32_t>::max() / 2) {
    return Status::invalid_argument(
        "a KV block of over 2 GiB cannot be kept below the hot arena; use fewer block_tokens");
  }
  if (!is_codec_for(codec, layout.dtype)) {
    return Status::invalid_argument(fmt::format(
        "a tier's codec is {}, and its blocks are int8 already; give raw or lossless, which keep them as they are",
        to_string(codec)));
  }
  switch (codec) {
    case Codec::Raw: return std::unique_ptr<BlockCodec>(std::make_unique<RawCodec>(layout.block_bytes()));
    case Codec::Lossless: return make_lossless_codec(layout);
    case Codec::Int8: return make_int8_codec(layout);
    case Codec::Int4: return make_int4_codec(layout);
  }
  return Status::invalid_argument("there is no such codec; use raw, lossless, int8 or int4");
} catch (const std::bad_alloc&) {
  return Status::unavailable("the system gives no memory for a codec");
}

}  // namespace tiercel
