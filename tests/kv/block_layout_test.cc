// Pins the bytes of a block: strides at compile time, and every byte of a small block against a golden file.
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tiercel/kv_cache.h"
#include "tiercel/types.h"

namespace tiercel {
namespace {

// SmolLM2-135M: 30 layers, 3 KV heads of 64.
constexpr KvLayout kSmol{.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = DType::F16};
static_assert(kSmol.head_stride() == 32 * 64);
static_assert(kSmol.value_offset() == 3 * 32 * 64);
static_assert(kSmol.layer_stride() == 2 * 3 * 32 * 64);
static_assert(kSmol.block_elements() == 30 * 2 * 3 * 32 * 64);
static_assert(kSmol.block_bytes() == 737'280 && kSmol.block_bytes() % 4096 == 0);
static_assert(kSmol.token_bytes() == 23'040);
static_assert(size_of(DType::F32) == 4 && size_of(DType::F16) == 2 && size_of(DType::BF16) == 2);

constexpr KvLayout kSmall{.layers = 2, .kv_heads = 2, .head_dim = 4, .block_tokens = 8, .dtype = DType::BF16};
static_assert(kSmall.block_bytes() == 512);

// Of codes: their scales behind each head's rows, in bytes.
constexpr KvLayout kCodes{.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = DType::Int8};
static_assert(size_of(DType::Int8) == 1 && kCodes.scale_bytes() == 2 && kSmol.scale_bytes() == 0);
static_assert(kCodes.scale_offset() == 32 * 64);
static_assert(kCodes.head_stride() == 32 * (64 + 2));
static_assert(kCodes.value_offset() == 3 * 32 * 66);
static_assert(kCodes.layer_stride() == 2 * 3 * 32 * 66);
static_assert(kCodes.block_bytes() == 380'160 && kCodes.token_bytes() == 11'880);
// Blocks begin at multiples of 64 in the arena, whatever they have.
constexpr KvLayout kOdd{.layers = 3, .kv_heads = 1, .head_dim = 16, .block_tokens = 8, .dtype = DType::Int8};
static_assert(kOdd.block_bytes() == 864 && kOdd.block_stride() == 896);
static_assert(kSmol.block_stride() == kSmol.block_bytes());

// One row of the golden file: "OFFSET LAYER K|V HEAD TOKEN : bytes of head_dim elements", all but LAYER, HEAD and TOKEN
// in hexadecimal.
TEST(BlockLayout, BytesAreThoseOfTheGoldenFile) {
  auto cache = KvCache::open({.capacity_bytes = kSmall.block_bytes()}, kSmall, {}).value();
  std::byte* block = cache.block(0);
  for (std::uint32_t layer = 0; layer < kSmall.layers; ++layer) {
    for (std::uint32_t value = 0; value < 2; ++value) {
      for (std::uint32_t head = 0; head < kSmall.kv_heads; ++head) {
        for (std::uint32_t token = 0; token < kSmall.block_tokens; ++token) {
          for (std::uint32_t dim = 0; dim < kSmall.head_dim; ++dim) {
            const auto bits = static_cast<std::uint16_t>(layer << 12 | value << 10 | head << 8 | token << 4 | dim);
            const std::size_t element = layer * kSmall.layer_stride() + value * kSmall.value_offset() +
                                        head * kSmall.head_stride() + std::size_t{token} * kSmall.head_dim + dim;
            std::memcpy(block + element * sizeof(bits), &bits, sizeof(bits));
          }
        }
      }
    }
  }

  std::ifstream golden(TIERCEL_TEST_DATA "/kv_block_layout.txt");
  ASSERT_TRUE(golden.is_open());
  std::vector<bool> covered(kSmall.block_bytes());
  std::string line;
  while (std::getline(golden, line)) {
    if (line.empty() || line.front() == '#') continue;
    std::istringstream fields(line);
    std::size_t offset = 0;
    std::string layer, kind, head, token, colon;
    fields >> std::hex >> offset >> layer >> kind >> head >> token >> colon;
    ASSERT_EQ(colon, ":") << line;
    for (unsigned byte = 0; fields >> std::hex >> byte; ++offset) {
      ASSERT_LT(offset, covered.size()) << line;
      EXPECT_EQ(std::to_integer<unsigned>(block[offset]), byte) << "offset " << offset << " in: " << line;
      EXPECT_FALSE(covered[offset]) << line;
      covered[offset] = true;
    }
  }
  EXPECT_EQ(covered, std::vector<bool>(kSmall.block_bytes(), true));
}

}  // namespace
}  // namespace tiercel
