// Files that lie: nothing but a Status may come of them, soon, and without much memory.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <new>

#include "gguf/dequantize.h"
#include "gguf/gguf_file.h"
#include "tests/gguf/gguf_builder.h"

namespace {
thread_local std::size_t allocated_bytes = 0;  // by operator new, since the thread began
}

// Not inlined: seen through, malloc and free look mismatched with new and delete to the compiler.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  allocated_bytes += size;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace tiercel {
namespace {

// Parses from a buffer of exactly the file's size, so that AddressSanitizer sees every read beyond it, and then reads
// everything that the file offers.
Status read_everything(std::string_view bytes) {
  const auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::copy_n(as_bytes(bytes).data(), bytes.size(), copy.get());
  const std::size_t before = allocated_bytes;
  auto file = GgufFile::parse({copy.get(), bytes.size()}, "hostile.gguf");
  EXPECT_LE(allocated_bytes - before, 16 * bytes.size() + 8192);
  if (!file.ok()) return file.status();
  for (const GgufValue& value : file->metadata()) {
    (void)file->get_uint(value.key);
    (void)file->get_float(value.key);
    (void)file->get_bool(value.key);
    if (auto text = file->get_string(value.key); text.ok()) std::string(*text).shrink_to_fit();
    if (auto texts = file->get_strings(value.key); texts.ok()) {
      for (const std::string_view text : *texts) std::string(text).shrink_to_fit();
    }
    (void)file->get_ints(value.key);
    (void)file->get_floats(value.key);
  }
  for (const GgufTensor& tensor : file->tensors()) {
    std::vector<float> values(tensor.columns() * tensor.rows());
    dequantize(tensor.type, tensor.data, values);
  }
  return Status();
}

void expect_refused(const std::string& bytes, const std::vector<std::string>& parts) {
  const Status status = read_everything(bytes);
  EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << status.to_string();
  EXPECT_TRUE(status.message().starts_with("hostile.gguf: ")) << status.message();
  for (const std::string& part : parts)
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << " lacks " << part;
  for (const char c : status.message()) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << status.message();
}

TEST(HostileFile, EveryTruncationIsRefused) {
  const std::string whole = every_kind_and_type().build();
  ASSERT_TRUE(read_everything(whole).ok()) << read_everything(whole).to_string();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Status status = read_everything(std::string_view(whole).substr(0, size));
    ASSERT_EQ(status.code(), StatusCode::InvalidArgument) << "at " << size << " of " << whole.size();
    ASSERT_TRUE(status.message().starts_with("hostile.gguf: ")) << status.message();
  }
}

TEST(HostileFile, EveryChangedByteOfTheHeadIsHarmless) {
  const GgufBuilder builder = every_kind_and_type();
  const std::string whole = builder.build();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < builder.head().size(); ++i) {
    for (const int change : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ change);
      const Status status = read_everything(changed);
      if (status.ok()) continue;
      ++refused;
      ASSERT_EQ(status.code(), StatusCode::InvalidArgument)
          << "byte " << i << " ^ " << change << ": " << status.to_string();
    }
  }
  EXPECT_GT(refused, builder.head().size());  // most of the head matters
}

TEST(HostileFile, SaysWhichVersionOrFormatItIs) {
  GgufBuilder builder;
  for (const std::uint32_t version : {0u, 1u, 2u, 4u}) {
    builder.version = version;
    expect_refused(builder.build(), {"version " + std::to_string(version), "version 3"});
  }
  builder.version = 0x03000000;
  expect_refused(builder.build(), {"big-endian"});
  const std::string rest(64, 'x');
  expect_refused("GGML" + rest, {"not a GGUF file"});
  expect_refused("tjgg" + rest, {"before GGUF"});
  expect_refused("PK\x03\x04" + rest, {"ZIP"});
  expect_refused("version https://git-lfs.github.com/spec/v1\n", {"git lfs pull"});
  expect_refused("<!DOCTYPE html><html>", {"HTML"});
  expect_refused(bytes_of<std::uint64_t>(40) + "{\"__metadata__\":{}}", {"safetensors"});
  expect_refused("GGU", {"byte 0", "truncated"});
}

TEST(HostileFile, HugeCountsAreRefusedBeforeAnythingIsAllocated) {
  for (const std::uint64_t count : {std::uint64_t{1000}, std::uint64_t{1} << 32, std::uint64_t{1} << 60,
                                    std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    GgufBuilder keys = every_kind_and_type();
    keys.key_count = count;
    expect_refused(keys.build(), {"hold"});
    GgufBuilder tensors = every_kind_and_type();
    tensors.tensor_count = count;
    expect_refused(tensors.build(), {"hold"});

    const std::string filler(100, '\0');
    for (std::uint32_t kind = 0; kind <= 12; ++kind) {
      expect_refused(GgufBuilder().raw("array", 9, bytes_of(kind) + bytes_of(count) + filler).build(),
                     {"array", std::to_string(count)});
    }
    const std::string nested =
        bytes_of(GgufKind::Array) + bytes_of<std::uint64_t>(1) + bytes_of(GgufKind::String) + bytes_of(count);
    expect_refused(GgufBuilder().raw("nested", 9, nested + filler).build(), {std::to_string(count)});
    expect_refused(GgufBuilder().raw("text", 8, bytes_of(count) + filler).build(), {"string", std::to_string(count)});
    expect_refused(
        GgufBuilder()
            .raw("texts", 9, bytes_of(GgufKind::String) + bytes_of<std::uint64_t>(1) + bytes_of(count) + filler)
            .build(),
        {std::to_string(count)});
  }
}

TEST(HostileFile, CountsBeyondTheLimitsAreRefusedHoweverLargeTheFile) {
  GgufBuilder builder;
  for (int i = 0; i < 65537; ++i) builder.number(std::to_string(i), GgufKind::U8, std::uint8_t{0});
  expect_refused(builder.build(), {"65537", "at most"});
}

TEST(HostileFile, DeeplyNestedArraysAreRefused) {
  for (const int depth : {9, 100, 200000}) {
    std::string bytes;
    for (int i = 0; i < depth; ++i) bytes += bytes_of(GgufKind::Array) + bytes_of<std::uint64_t>(1);
    expect_refused(GgufBuilder().raw("bomb", 9, bytes + bytes_of(GgufKind::U8) + bytes_of<std::uint64_t>(0)).build(),
                   {"'bomb'", "nested"});
  }
}

TEST(HostileFile, UnknownAndWrongValuesAreNamed) {
  expect_refused(GgufBuilder().raw("k", 13, "xxxxxxxx").build(), {"'k'", "unknown kind 13"});
  expect_refused(GgufBuilder().raw("k", 9, bytes_of(99u) + bytes_of<std::uint64_t>(0)).build(),
                 {"'k'", "unknown kind 99"});
  expect_refused(GgufBuilder().number("k", GgufKind::Bool, std::uint8_t{2}).build(), {"'k'", "bool", "2"});
  expect_refused(GgufBuilder().numbers("k", GgufKind::Bool, std::vector<std::uint8_t>{0, 1, 255}).build(),
                 {"'k'", "bool", "255"});
  expect_refused(GgufBuilder().text("", "x").build(), {"key", "0 bytes"});
  expect_refused(GgufBuilder().text("a\x1b[2J\nb", "x").build(), {"'a\\x1b[2J\\x0ab'"});
  expect_refused(GgufBuilder().text("\xff\xfe", "x").build(), {"'\\xff\\xfe'"});
  expect_refused(GgufBuilder().text(std::string(70000, 'k'), "x").build(), {"70000"});
  expect_refused(GgufBuilder().text("twice", "x").text("once", "y").text("twice", "z").build(),
                 {"'twice'", "appears twice"});
}

TEST(HostileFile, BadAlignmentsAreRefused) {
  for (const std::uint32_t alignment : {0u, 1u, 3u, 4u, 24u, 33u, 1u << 21, 1u << 31, ~0u}) {
    expect_refused(GgufBuilder().number("general.alignment", GgufKind::U32, alignment).build(),
                   {"general.alignment", std::to_string(alignment), "power of two"});
  }
  expect_refused(GgufBuilder().text("general.alignment", "32").build(), {"general.alignment", "string"});
}

TEST(HostileFile, TensorTypesOutsideTheSupportedAreNamedWithTheirTensor) {
  const std::vector<std::pair<std::uint32_t, std::string>> types = {
      {4, "number 4"},    {6, "Q5_0 (6)"},   {9, "Q8_1 (9)"},      {10, "Q2_K (10)"},         {12, "Q4_K (12)"},
      {14, "Q6_K (14)"},  {15, "Q8_K (15)"}, {16, "IQ2_XXS (16)"}, {20, "IQ4_NL (20)"},       {23, "IQ4_XS (23)"},
      {24, "I8 (24)"},    {28, "F64 (28)"},  {29, "IQ1_M (29)"},   {31, "number 31"},         {34, "TQ1_0 (34)"},
      {39, "MXFP4 (39)"}, {41, "Q1_0 (41)"}, {42, "number 42"},    {~0u, "number 4294967295"}};
  for (const auto& [number, name] : types) {
    expect_refused(GgufBuilder().tensor("blk.0.ffn_up.weight", {256, 1}, number, std::string(256, 'x')).build(),
                   {"'blk.0.ffn_up.weight'", name, "F32, F16, BF16, Q8_0, Q4_0, Q4_1"});
  }
}

TEST(HostileFile, BadTensorInfosAreRefused) {
  const auto one = [](const std::vector<std::uint64_t>& shape, TensorType type, std::uint64_t offset = 0) {
    return GgufBuilder().tensor("t", shape, static_cast<std::uint32_t>(type), std::string(64, 'x'), offset).build();
  };
  ASSERT_TRUE(read_everything(one({16}, TensorType::F32)).ok());
  expect_refused(one({}, TensorType::F32), {"'t'", "0 dimensions"});
  expect_refused(one({1, 1, 1, 1, 1}, TensorType::F32), {"'t'", "5 dimensions"});
  expect_refused(one({4, 0}, TensorType::F32), {"'t'", "dimension 1 is 0"});
  expect_refused(one({16, 2}, TensorType::Q4_0), {"'t'", "16 columns", "blocks of 32"});
  expect_refused(one({17}, TensorType::F32), {"'t'", "truncated"});
  // Products that come out small after a wrap around 2^64.
  expect_refused(one({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, TensorType::F32), {"'t'", "overflow"});
  expect_refused(one({std::uint64_t{1} << 62}, TensorType::F32), {"'t'", "do not fit"});
  expect_refused(one({(std::uint64_t{1} << 62) + 4}, TensorType::F32), {"'t'", "do not fit"});
  expect_refused(one({32, std::uint64_t{1} << 59}, TensorType::F16), {"'t'"});
  expect_refused(one({~std::uint64_t{0} - 31}, TensorType::Q4_1), {"'t'", "do not fit"});
  expect_refused(one({8}, TensorType::F32, 8), {"'t'", "offset 8", "alignment 32"});

  const auto at = [](std::uint64_t offset) {
    GgufBuilder builder;
    builder.tensor("big", {16}, TensorType::F32, std::string(64, 'x'));
    return builder.tensor("t", {8}, 0, "", offset).build();
  };
  expect_refused(at(64), {"'t'", "offset 64"});
  expect_refused(at(std::uint64_t{1} << 40), {"'t'", "1099511627776"});
  expect_refused(at(~std::uint64_t{0} - 31), {"'t'", "18446744073709551584"});
  expect_refused(at(0), {"overlap", "'t'", "'big'"});
  expect_refused(at(32), {"overlap", "'t'", "'big'"});
}

TEST(HostileFile, TensorNamesMustBeThereAndDiffer) {
  const auto named = [](const std::string& first, const std::string& second) {
    return GgufBuilder()
        .tensor(first, {8}, TensorType::F32, std::string(32, 'x'))
        .tensor(second, {8}, TensorType::F32, std::string(32, 'y'))
        .build();
  };
  ASSERT_TRUE(read_everything(named("b", "a")).ok());
  expect_refused(named("same", "same"), {"'same'", "appears twice"});
  expect_refused(named("a", ""), {"tensor name", "0 bytes"});
  expect_refused(named("a", "b\n"), {"tensor name", "'b\\x0a'"});
}

}  // namespace
}  // namespace tiercel
