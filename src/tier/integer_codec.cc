// Codec::Int8 and Codec::Int4: quantized values, their integers and scales entropy-coded where that saves something.
//
// A group is a run of consecutive values of one layer's K or V, so within one token where head_dim is a multiple of the
// group. The last group of each K or V is filled up with its last value, if need be.
#include <algorithm>
#include <array>
#include <vector>

#include "tier/block_codecs.h"
#include "tier/byte_planes.h"
#include "tier/kv_values.h"
#include "tier/plane_coder.h"
#include "tier/quantization.h"

namespace tiercel {
namespace {

class IntegerCodec final : public BlockCodec {
 public:
  IntegerCodec(Codec codec, const KvLayout& layout) : codec_(codec), layout_(layout) {}

  Codec codec() const override { return codec_; }
  std::unique_ptr<Workspace> make_workspace() const override { return std::make_unique<Scratch>(*this); }
  std::size_t max_encoded_bytes() const override {
    return max_planes_bytes(planes(), parts() * code_bytes() + shared_kinds() * scale_bytes());
  }

  std::size_t encode(std::span<const std::byte> block, std::span<std::byte> encoded,
                     Workspace& workspace) const override {
    auto& scratch = static_cast<Scratch&>(workspace);
    for (std::size_t part = 0; part < parts(); ++part) {
      load_finite(block.subspan(part * part_bytes(), part_bytes()), layout_.dtype, scratch.values.data());
      std::fill(scratch.values.begin() + values(), scratch.values.end(), scratch.values[values() - 1]);
      auto* const codes = scratch.codes.data() + part * code_bytes();
      auto* const scales = scratch.scales.data() + part * groups();
      if (codec_ == Codec::Int8) {
        quantize_int8(scratch.values.data(), groups(), codes, scales);
      } else {
        quantize_int4(scratch.values.data(), groups(), codes, scales, scratch.minimums.data() + part * groups());
      }
    }
    // Scales first: decoding needs them for every part.
    PlaneWriter writer(encoded, codec_, layout_.dtype, planes(), scratch.contexts);
    const auto add_shared = [&](std::span<const std::uint16_t> shared) {
      split_planes(std::as_bytes(shared), 2, scratch.planes.data());
      writer.add(std::span(scratch.planes).first(shared.size()));
      writer.add(std::span(scratch.planes).last(shared.size()));
    };
    add_shared(scratch.scales);
    if (codec_ == Codec::Int4) add_shared(scratch.minimums);
    for (std::size_t part = 0; part < parts(); ++part) {
      writer.add(std::as_bytes(std::span(scratch.codes)).subspan(part * code_bytes(), code_bytes()));
    }
    return writer.encoded_bytes();
  }

  Status decode(std::span<const std::byte> encoded, std::span<std::byte> block, Workspace& workspace) const override {
    auto& scratch = static_cast<Scratch&>(workspace);
    PlaneReader reader(encoded, scratch.contexts);
    TIERCEL_RETURN_IF_ERROR(reader.open(codec_, layout_.dtype, planes()));
    const auto next_shared = [&](std::span<std::uint16_t> shared) {
      const auto high = reader.next(shared.size(), std::span(scratch.planes).first(shared.size()));
      const auto low = reader.next(shared.size(), std::span(scratch.planes).last(shared.size()));
      if (high.empty() || low.empty()) return false;
      const std::array<const std::byte*, 2> planes{high.data(), low.data()};
      join_planes(planes.data(), 2, std::as_writable_bytes(shared));
      return true;
    };
    if (!next_shared(scratch.scales)) return damaged_block();
    if (codec_ == Codec::Int4 && !next_shared(scratch.minimums)) return damaged_block();
    for (std::size_t part = 0; part < parts(); ++part) {
      const auto plane = reader.next(code_bytes(), std::as_writable_bytes(std::span(scratch.codes)));
      if (plane.empty()) return damaged_block();
      const auto* const codes = reinterpret_cast<const std::uint8_t*>(plane.data());
      const auto* const scales = scratch.scales.data() + part * groups();
      if (codec_ == Codec::Int8) {
        dequantize_int8(codes, scales, groups(), scratch.values.data());
      } else {
        dequantize_int4(codes, scales, scratch.minimums.data() + part * groups(), groups(), scratch.values.data());
      }
      store_values(scratch.values.data(), layout_.dtype, block.subspan(part * part_bytes(), part_bytes()));
    }
    return {};
  }

 private:
  struct Scratch final : Workspace {
    explicit Scratch(const IntegerCodec& codec)
        : values(codec.groups() * codec.group_values()),
          codes(codec.parts() * codec.code_bytes()),
          scales(codec.parts() * codec.groups()),
          minimums(codec.codec_ == Codec::Int4 ? scales.size() : 0),
          planes(codec.scale_bytes()) {}
    PlaneContexts contexts;
    std::vector<float> values;        // of one part
    std::vector<std::uint8_t> codes;  // of the block
    std::vector<std::uint16_t> scales, minimums;
    std::vector<std::byte> planes;  // of the scales or minimums
  };

  // A part is one layer's K or V.
  std::size_t parts() const { return layout_.layers * std::size_t{2}; }
  std::size_t values() const { return layout_.value_offset(); }
  std::size_t part_bytes() const { return values() * size_of(layout_.dtype); }
  std::size_t group_values() const { return codec_ == Codec::Int8 ? kInt8Group : kInt4Group; }
  std::size_t groups() const { return (values() + group_values() - 1) / group_values(); }
  std::size_t code_bytes() const { return groups() * (codec_ == Codec::Int8 ? kInt8Group : kInt4Group / 2); }
  // What groups share: scales, with 4 bits also minimums.
  std::size_t shared_kinds() const { return codec_ == Codec::Int8 ? 1 : 2; }
  std::size_t scale_bytes() const { return parts() * groups() * sizeof(std::uint16_t); }
  std::size_t planes() const { return shared_kinds() * 2 + parts(); }

  const Codec codec_;
  const KvLayout layout_;
};

}  // namespace

std::unique_ptr<BlockCodec> make_int8_codec(const KvLayout& layout) {
  return std::make_unique<IntegerCodec>(Codec::Int8, layout);
}

std::unique_ptr<BlockCodec> make_int4_codec(const KvLayout& layout) {
  return std::make_unique<IntegerCodec>(Codec::Int4, layout);
}

}  // namespace tiercel
