// Codec::Lossless: byte planes, each entropy-coded where that saves something.
//
// The unit is one layer's K or V: their exponents are distributed unlike those of the next, and a table of codes for
// each costs less than it saves.
#include <array>
#include <vector>

#include "tier/block_codecs.h"
#include "tier/byte_planes.h"
#include "tier/plane_coder.h"

namespace tiercel {
namespace {

class LosslessCodec final : public BlockCodec {
 public:
  explicit LosslessCodec(const KvLayout& layout) : layout_(layout) {}

  Codec codec() const override { return Codec::Lossless; }
  std::unique_ptr<Workspace> make_workspace() const override { return std::make_unique<Planes>(part_bytes()); }
  std::size_t max_encoded_bytes() const override { return max_planes_bytes(planes(), layout_.block_bytes()); }

  std::size_t encode(std::span<const std::byte> block, std::span<std::byte> encoded,
                     Workspace& workspace) const override {
    auto& [contexts, scratch] = static_cast<Planes&>(workspace);
    PlaneWriter writer(encoded, codec(), layout_.dtype, planes(), contexts);
    for (std::size_t at = 0; at < layout_.block_bytes(); at += part_bytes()) {
      split_planes(block.subspan(at, part_bytes()), value_bytes(), scratch.data());
      for (std::size_t i = 0; i < value_bytes(); ++i) {
        writer.add(std::span(scratch).subspan(i * plane_bytes(), plane_bytes()));
      }
    }
    return writer.encoded_bytes();
  }

  Status decode(std::span<const std::byte> encoded, std::span<std::byte> block, Workspace& workspace) const override {
    auto& [contexts, scratch] = static_cast<Planes&>(workspace);
    PlaneReader reader(encoded, contexts);
    TIERCEL_RETURN_IF_ERROR(reader.open(codec(), layout_.dtype, planes()));
    for (std::size_t at = 0; at < layout_.block_bytes(); at += part_bytes()) {
      std::array<const std::byte*, 4> parts{};
      for (std::size_t i = 0; i < value_bytes(); ++i) {
        const auto plane = reader.next(plane_bytes(), std::span(scratch).subspan(i * plane_bytes(), plane_bytes()));
        if (plane.empty()) return damaged_block();
        parts[i] = plane.data();
      }
      join_planes(parts.data(), value_bytes(), block.subspan(at, part_bytes()));
    }
    return {};
  }

 private:
  struct Planes final : Workspace {
    explicit Planes(std::size_t bytes) : scratch(bytes) {}
    PlaneContexts contexts;
    std::vector<std::byte> scratch;
  };

  std::size_t value_bytes() const { return size_of(layout_.dtype); }
  std::size_t plane_bytes() const { return layout_.value_offset(); }
  std::size_t part_bytes() const { return plane_bytes() * value_bytes(); }
  std::size_t planes() const { return layout_.layers * 2 * value_bytes(); }

  const KvLayout layout_;
};

}  // namespace

std::unique_ptr<BlockCodec> make_lossless_codec(const KvLayout& layout) {
  return std::make_unique<LosslessCodec>(layout);
}

}  // namespace tiercel
