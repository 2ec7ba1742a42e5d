#include "tier/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tier/kv_values.h"
#include "tier/quantization.h"

namespace tiercel {
namespace {

using Bytes = std::vector<std::byte>;

constexpr Codec kCodecs[] = {Codec::Raw, Codec::Lossless, Codec::Int8, Codec::Int4};
constexpr DType kTypes[] = {DType::F32, DType::F16, DType::BF16};

// A codec with its workspace.
struct Coder {
  Coder(Codec which, const KvLayout& l)
      : layout(l), codec(make_codec(which, l).value()), workspace(codec->make_workspace()) {}
  Bytes encode(const Bytes& block) const {
    Bytes encoded(codec->max_encoded_bytes());
    encoded.resize(codec->encode(block, encoded, *workspace));
    return encoded;
  }
  Status decode(const Bytes& encoded, Bytes& block) const {
    block.resize(layout.block_bytes());
    return codec->decode(encoded, block, *workspace);
  }

  KvLayout layout;
  std::unique_ptr<BlockCodec> codec;
  std::unique_ptr<BlockCodec::Workspace> workspace;
};

KvLayout any_layout(std::mt19937_64& random) {
  const std::uint32_t dims[] = {1, 8, 64, 80, 96, 128, 256}, tokens[] = {1, 8, 16, 32, 128};
  return {.layers = static_cast<std::uint32_t>(1 + random() % 3),
          .kv_heads = static_cast<std::uint32_t>(1 + random() % 3),
          .head_dim = dims[random() % std::size(dims)],
          .block_tokens = tokens[random() % std::size(tokens)],
          .dtype = kTypes[random() % std::size(kTypes)]};
}

Bytes block_of(const std::vector<float>& values, DType dtype) {
  Bytes block(values.size() * size_of(dtype));
  store_values(values.data(), dtype, block);
  return block;
}

std::vector<float> normal_values(std::size_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = normal(random) * (i % 16 == 3 ? 20.0f : 1.0f);
  return values;
}

// Bytes of several kinds: random, of few values, zeros, and bit patterns of NaN, infinity and denormals.
Bytes any_bytes(std::size_t count, std::mt19937_64& random) {
  Bytes bytes(count);
  const auto kind = random() % 5;
  for (std::size_t i = 0; i < count; ++i) {
    const auto draw = static_cast<unsigned char>(random());
    const unsigned char special[] = {0x00, 0x7f, 0x80, 0xff, 0x7c, 0xfc, 0x01, 0xf8};
    bytes[i] = static_cast<std::byte>(kind == 0   ? 0
                                      : kind == 1 ? draw % 3 + 60
                                      : kind == 2 ? special[draw % 8]
                                      : kind == 3 ? (i / 64 % 2 == 0 ? draw : draw % 4)
                                                  : draw);
  }
  return bytes;
}

TEST(Codec, LosslessAndRawGiveBackTheBits) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    KvLayout layout = any_layout(random);
    if (round % 4 == 0) layout.dtype = DType::Int8;
    const Bytes block = any_bytes(layout.block_bytes(), random);
    for (const Codec which : {Codec::Raw, Codec::Lossless}) {
      const Coder coder(which, layout);
      EXPECT_EQ(coder.codec->codec(), which);
      Bytes back;
      ASSERT_TRUE(coder.decode(coder.encode(block), back).ok());
      ASSERT_EQ(back, block);
    }
  }
}

TEST(Codec, CodesAreNotRoundedToOtherCodes) {
  KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 64, .block_tokens = 8, .dtype = DType::Int8};
  for (const Codec codec : {Codec::Int8, Codec::Int4}) {
    const Status status = make_codec(codec, layout).status();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    EXPECT_NE(status.message().find("give raw or lossless"), std::string::npos) << status.message();
  }
}

TEST(Codec, LosslessGivesBackEveryValueOfTwoBytes) {
  Bytes block;
  for (unsigned value = 0; value < 65536; ++value) {
    block.push_back(static_cast<std::byte>(value));
    block.push_back(static_cast<std::byte>(value >> 8));
  }
  const Coder coder(Codec::Lossless,
                    {.layers = 2, .kv_heads = 2, .head_dim = 128, .block_tokens = 64, .dtype = DType::BF16});
  Bytes back;
  ASSERT_TRUE(coder.decode(coder.encode(block), back).ok());
  EXPECT_EQ(back, block);
}

// One workspace for many blocks, in any order: nothing of one block is left for the next.
TEST(Codec, AWorkspaceKeepsNothing) {
  std::mt19937_64 random(2);
  const KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 80, .block_tokens = 16, .dtype = DType::F16};
  for (const Codec which : kCodecs) {
    const Coder worn(which, layout);
    for (int round = 0; round < 20; ++round) {
      const Bytes block = any_bytes(layout.block_bytes(), random);
      const Coder fresh(which, layout);
      const Bytes encoded = worn.encode(block);
      EXPECT_EQ(encoded, fresh.encode(block));
      Bytes left, right;
      ASSERT_TRUE(worn.decode(encoded, left).ok());
      ASSERT_TRUE(fresh.decode(encoded, right).ok());
      EXPECT_EQ(left, right);
    }
  }
}

// What KV looks like, roughly: normal values with a few wide channels.
TEST(Codec, KvBecomesSmaller) {
  std::mt19937_64 random(3);
  const KvLayout layout{.layers = 4, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = DType::BF16};
  const Bytes block = block_of(normal_values(layout.block_elements(), random), layout.dtype);
  const auto left = [&](Codec which) {
    return static_cast<double>(Coder(which, layout).encode(block).size()) / static_cast<double>(block.size());
  };
  EXPECT_EQ(left(Codec::Raw), 1);
  EXPECT_LT(left(Codec::Lossless), 0.70);
  EXPECT_LT(left(Codec::Int8), 0.47);
  EXPECT_LT(left(Codec::Int4), 0.30);
}

// Half a scale, as documented, and the rounding to the element type.
double rounding(double value, DType dtype) {
  const double relative = dtype == DType::F32 ? 0x1p-24 : dtype == DType::F16 ? 0x1p-11 : 0x1p-8;
  return std::fabs(value) * relative + (dtype == DType::F16 ? 0x1p-24 : 0x1p-126);
}

TEST(Codec, IntegersAreOffByHalfAScaleAtMost) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 150; ++round) {
    const KvLayout layout = any_layout(random);
    std::vector<float> exact = normal_values(layout.block_elements(), random);
    const float factors[] = {1, 1000, 1e-3f, layout.dtype == DType::F16 ? 100.0f : 1e30f, 0};
    for (float& value : exact) value *= factors[round % std::size(factors)];
    const Bytes block = block_of(exact, layout.dtype);
    load_finite(block, layout.dtype, exact.data());
    for (const Codec which : {Codec::Int8, Codec::Int4}) {
      const Coder coder(which, layout);
      Bytes back;
      ASSERT_TRUE(coder.decode(coder.encode(block), back).ok());
      std::vector<float> found(exact.size());
      load_finite(back, layout.dtype, found.data());
      const std::size_t group = which == Codec::Int8 ? kInt8Group : kInt4Group;
      for (std::size_t part = 0; part < exact.size(); part += layout.value_offset()) {
        for (std::size_t first = 0; first < layout.value_offset(); first += group) {
          const auto values = std::span(exact).subspan(part, layout.value_offset()).subspan(first);
          const auto of_group = values.first(std::min(group, values.size()));
          const auto [low, high] = std::ranges::minmax(of_group);
          // Scales are rounded up to bf16, the minimum down, by 2^-7 of themselves at most.
          const double extreme = std::max(std::fabs(low), std::fabs(high));
          const double scale = which == Codec::Int8
                                   ? extreme / 127 * (1 + 0x1p-7)
                                   : (double{high} - low + std::fabs(low) * 0x1p-7) / 15 * (1 + 0x1p-7);
          for (std::size_t i = 0; i < of_group.size(); ++i) {
            const float result = found[part + first + i];
            ASSERT_LE(std::fabs(double{result} - of_group[i]),
                      scale * 0.5001 + rounding(result, layout.dtype) + 0x1p-20 * extreme)
                << to_string(which) << " " << to_string(layout.dtype) << " value " << of_group[i] << " " << result;
          }
        }
      }
    }
  }
}

TEST(Codec, IntegersOfAnyBytesAreFinite) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 100; ++round) {
    const KvLayout layout = any_layout(random);
    const Bytes block = any_bytes(layout.block_bytes(), random);
    for (const Codec which : {Codec::Int8, Codec::Int4}) {
      const Coder coder(which, layout);
      Bytes back;
      ASSERT_TRUE(coder.decode(coder.encode(block), back).ok());
      for (std::size_t i = 0; i < back.size(); i += size_of(layout.dtype)) {
        const auto top = std::to_integer<unsigned>(back[i + size_of(layout.dtype) - 1]);
        const auto next = std::to_integer<unsigned>(back[i + size_of(layout.dtype) - 2]);
        const bool finite =
            layout.dtype == DType::F16 ? (top & 0x7cu) != 0x7cu : ((top & 0x7fu) != 0x7fu || (next & 0x80u) == 0);
        ASSERT_TRUE(finite);
      }
    }
  }
}

TEST(Codec, HalvesBecomeFloatsAndHalvesAgain) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const Bytes half{static_cast<std::byte>(bits), static_cast<std::byte>(bits >> 8)};
    float value = 0;
    load_finite(half, DType::F16, &value);
    const unsigned exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float magnitude = exponent == 31  ? 0
                            : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                            : std::ldexp(static_cast<float>(mantissa + 1024), int(exponent) - 25);
    ASSERT_EQ(value, (bits & 0x8000u) != 0 ? -magnitude : magnitude) << bits;
    if (exponent == 31) continue;
    Bytes back(2);
    store_values(&value, DType::F16, back);
    ASSERT_EQ(back, half) << bits;
    // To nearest, ties to even: just below, at and just above the middle to the next.
    const float step = std::ldexp(1.0f, std::max(int(exponent), 1) - 25);
    for (const auto& [offset, up] : {std::pair{0.499f, false}, {0.5f, (bits & 1) != 0}, {0.501f, true}}) {
      if (bits >= 0x7bff) break;  // positive ones that have a next
      const float between = value + offset * step;
      store_values(&between, DType::F16, back);
      ASSERT_EQ(std::to_integer<unsigned>(back[0]) | std::to_integer<unsigned>(back[1]) << 8, bits + (up ? 1 : 0));
    }
  }
}

constexpr KvLayout kSmall{.layers = 1, .kv_heads = 2, .head_dim = 16, .block_tokens = 8, .dtype = DType::BF16};

TEST(Codec, DamageIsCorruptionOrSomeBlock) {
  std::mt19937_64 random(6);
  const Bytes block = block_of(normal_values(kSmall.block_elements(), random), kSmall.dtype);
  for (const Codec which : {Codec::Lossless, Codec::Int8, Codec::Int4}) {
    const Coder coder(which, kSmall);
    const Bytes whole = coder.encode(block);
    Bytes back;
    for (std::size_t length = 0; length < whole.size(); ++length) {
      // An allocation of its own size: reading past its end is seen.
      ASSERT_EQ(coder.decode(Bytes(whole.begin(), whole.begin() + std::ptrdiff_t(length)), back).code(),
                StatusCode::Corruption);
    }
    Bytes longer = whole;
    longer.push_back(std::byte{0});
    EXPECT_EQ(coder.decode(longer, back).code(), StatusCode::Corruption);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        Bytes damaged = whole;
        damaged[i] ^= static_cast<std::byte>(1 << bit);
        const Status status = coder.decode(damaged, back);
        ASSERT_TRUE(status.ok() || status.code() == StatusCode::Corruption);
        if (i < 4) {
          ASSERT_FALSE(status.ok()) << "the header";
        }
      }
    }
    for (int round = 0; round < 20'000; ++round) {
      Bytes damaged = whole;
      for (auto changes = 1 + random() % 8; changes-- > 0;) {
        damaged[random() % damaged.size()] = static_cast<std::byte>(random());
      }
      const Status status = coder.decode(damaged, back);
      ASSERT_TRUE(status.ok() || status.code() == StatusCode::Corruption);
    }
  }
}

TEST(Codec, GarbageIsCorruptionOrSomeBlock) {
  std::mt19937_64 random(7);
  for (const Codec which : kCodecs) {
    const Coder coder(which, kSmall);
    Bytes back;
    for (int round = 0; round < 5'000; ++round) {
      Bytes garbage(random() % (coder.codec->max_encoded_bytes() + 16));
      for (std::byte& byte : garbage) byte = static_cast<std::byte>(random());
      const Status status = coder.decode(garbage, back);
      ASSERT_TRUE(status.ok() || status.code() == StatusCode::Corruption);
    }
  }
  Bytes back;
  EXPECT_EQ(
      Coder(Codec::Int8, kSmall).decode(Coder(Codec::Int4, kSmall).encode(Bytes(kSmall.block_bytes())), back).code(),
      StatusCode::Corruption);
}

TEST(Codec, RefusesWhatIsNoLayoutAndTakesTheSmallest) {
  EXPECT_EQ(make_codec(Codec::Int8, {}).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(make_codec(static_cast<Codec>(9), kSmall).status().code(), StatusCode::InvalidArgument);
  const KvLayout one{.layers = 1, .kv_heads = 1, .head_dim = 1, .block_tokens = 1, .dtype = DType::F16};
  for (const Codec which : kCodecs) {
    const Coder coder(which, one);
    const Bytes block = block_of({0.5f, -2.0f}, DType::F16);
    Bytes back;
    ASSERT_TRUE(coder.decode(coder.encode(block), back).ok());
    std::vector<float> values(2);
    load_finite(back, DType::F16, values.data());
    EXPECT_NEAR(values[0], 0.5, 0.01);
    EXPECT_NEAR(values[1], -2.0, 0.02);
  }
}

// docs/codecs.md in bytes. What zstd makes of a plane may differ by its version, what it stands for may not: the files
// must decode to the blocks forever.
KvLayout layout_of(DType dtype) {
  KvLayout layout = kSmall;
  layout.dtype = dtype;
  return layout;
}

Bytes golden_block(DType dtype) {
  constexpr std::size_t kCount = kSmall.block_elements();
  std::vector<float> values(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    values[i] = static_cast<float>(static_cast<int>(i * i % 61) - 30) / (i % 16 == 5 ? 4.0f : 32.0f);
  }
  if (dtype != DType::Int8) return block_of(values, dtype);
  Bytes codes;  // and scales
  for (const float value : values) codes.push_back(static_cast<std::byte>(static_cast<int>(value * 32)));
  codes.resize(layout_of(dtype).block_bytes(), std::byte{0x3f});
  return codes;
}

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Bytes bytes;
  for (std::istreambuf_iterator<char> at(file), end; at != end; ++at) bytes.push_back(static_cast<std::byte>(*at));
  return bytes;
}

TEST(Codec, GoldenFilesStayReadable) {
  for (const Codec which : {Codec::Lossless, Codec::Int8, Codec::Int4}) {
    for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::Int8}) {
      if (dtype == DType::Int8 && which != Codec::Lossless) continue;
      const Coder coder(which, layout_of(dtype));
      const std::string name = std::string(TIERCEL_TEST_DATA) + "/codec_" + std::string(to_string(which)) + "_" +
                               std::string(to_string(dtype));
      const Bytes encoded = coder.encode(golden_block(dtype));
      Bytes now, then;
      ASSERT_TRUE(coder.decode(encoded, now).ok());
      if (std::getenv("TIERCEL_WRITE_GOLDEN") != nullptr) {
        std::ofstream(name + ".bin", std::ios::binary)
            .write(reinterpret_cast<const char*>(encoded.data()), std::ptrdiff_t(encoded.size()));
      }
      ASSERT_TRUE(coder.decode(read_file(name + ".bin"), then).ok()) << name;
      EXPECT_EQ(then, now) << name;
      if (which == Codec::Lossless) {
        EXPECT_EQ(then, golden_block(dtype)) << name;
      }
    }
  }
}

}  // namespace
}  // namespace tiercel
