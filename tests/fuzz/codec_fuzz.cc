// Any bytes as an encoded block, and any bytes as a block. The first byte chooses codec, element type and layout.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/fuzz/expect.h"
#include "tier/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tiercel;
  if (size == 0) return 0;
  const unsigned choice = data[0];
  constexpr std::array<Codec, 4> kCodecs = {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4};
  constexpr std::array<DType, 3> kTypes = {DType::F32, DType::F16, DType::BF16};
  constexpr std::array<std::uint32_t, 4> kHeadDims = {1, 8, 80, 128};
  const KvLayout layout{.layers = 1 + choice / 48 % 2,
                        .kv_heads = 1,
                        .head_dim = kHeadDims[choice / 12 % 4],
                        .block_tokens = 8,
                        .dtype = kTypes[choice / 4 % 3]};
  const auto codec = make_codec(kCodecs[choice % 4], layout).value();
  const auto workspace = codec->make_workspace();

  // Of its own size, so that a byte read behind it is seen.
  const auto* const bytes = reinterpret_cast<const std::byte*>(data + 1);
  const std::vector<std::byte> input(bytes, bytes + size - 1);
  std::vector<std::byte> block(layout.block_bytes());
  const Status status = codec->decode(input, block, *workspace);
  TIERCEL_FUZZ_EXPECT(status.ok() || status.code() == StatusCode::Corruption);

  std::copy_n(input.begin(), std::min(input.size(), block.size()), block.begin());
  std::vector<std::byte> encoded(codec->max_encoded_bytes());
  encoded.resize(codec->encode(block, encoded, *workspace));
  std::vector<std::byte> back(block.size());
  TIERCEL_FUZZ_EXPECT(codec->decode(encoded, back, *workspace).ok());
  if (codec->codec() == Codec::Raw || codec->codec() == Codec::Lossless) TIERCEL_FUZZ_EXPECT(back == block);
  return 0;
}
