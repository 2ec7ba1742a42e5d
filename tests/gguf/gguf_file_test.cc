#include "gguf/gguf_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "tests/base/temporary_directory.h"
#include "tests/gguf/gguf_builder.h"

namespace tiercel {
namespace {

Result<GgufFile> parse(const std::string& bytes) { return GgufFile::parse(as_bytes(bytes), "test.gguf"); }

void expect_status(const Status& status, StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  for (const std::string& part : parts)
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << " lacks " << part;
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
}

TEST(GgufFile, ReadsValuesOfEveryKind) {
  const std::string bytes = every_kind_and_type().build();
  auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->path(), "test.gguf");
  EXPECT_EQ(file->metadata().size(), 20u);
  EXPECT_EQ(file->get_uint("u8").value(), 200u);
  EXPECT_EQ(file->get_uint("u16").value(), 60000u);
  EXPECT_EQ(file->get_uint("u32").value(), 4000000000u);
  EXPECT_EQ(file->get_uint("u64").value(), 18000000000000000000u);
  EXPECT_EQ(file->get_float("i8").value(), -100);
  EXPECT_EQ(file->get_float("i16").value(), -30000);
  EXPECT_EQ(file->get_float("i32").value(), -2000000000);
  EXPECT_EQ(file->get_float("i64").value(), -9000000000000000000.0);
  EXPECT_EQ(file->get_float("f32").value(), 1.5);
  EXPECT_EQ(file->get_float("f64").value(), -2.25);
  EXPECT_EQ(file->get_bool("true").value(), true);
  EXPECT_EQ(file->get_bool("false").value(), false);
  EXPECT_EQ(file->get_string("string").value(), "h\xc3\xa9llo");
  EXPECT_EQ(file->get_string("empty string").value(), "");
  EXPECT_EQ(file->get_ints("ints").value(), (std::vector<std::int64_t>{-3, 0, 7}));
  EXPECT_EQ(file->get_floats("ints").value(), (std::vector<double>{-3, 0, 7}));
  EXPECT_EQ(file->get_floats("floats").value(), (std::vector<double>{0.5, -8}));
  EXPECT_TRUE(file->get_ints("no ints").value().empty());
  EXPECT_EQ(file->get_strings("strings").value(), (std::vector<std::string_view>{"a", "", "ccc"}));

  const GgufValue* nested = file->find("nested");
  ASSERT_NE(nested, nullptr);
  EXPECT_EQ(nested->kind, GgufKind::Array);
  EXPECT_EQ(nested->element_kind, GgufKind::Array);
  EXPECT_EQ(nested->count, 2u);
  EXPECT_EQ(nested->bytes.size(), 12u + 8 + 4 + 12 + 3);
}

TEST(GgufFile, RefusesAValueOfAnotherKind) {
  const std::string bytes = every_kind_and_type().build();
  const auto file = parse(bytes).value();
  const auto invalid = [](const Status& status, const std::vector<std::string>& parts) {
    expect_status(status, StatusCode::InvalidArgument, parts);
  };
  invalid(file.get_uint("absent").status(), {"test.gguf", "'absent'", "missing"});
  invalid(file.get_uint("i8").status(), {"test.gguf", "'i8'", "-100"});
  invalid(file.get_uint("i64").status(), {"'i64'", "-9000000000000000000"});
  invalid(file.get_uint("f32").status(), {"'f32'", "f32", "integer"});
  invalid(file.get_uint("true").status(), {"'true'", "bool"});
  invalid(file.get_uint("ints").status(), {"'ints'", "array of i16"});
  invalid(file.get_float("string").status(), {"'string'", "number"});
  invalid(file.get_float("true").status(), {"'true'", "bool"});
  invalid(file.get_bool("u8").status(), {"'u8'", "bool"});
  invalid(file.get_string("strings").status(), {"'strings'", "array of string"});
  invalid(file.get_strings("string").status(), {"'string'", "array"});
  invalid(file.get_strings("nested").status(), {"'nested'", "array of array"});
  invalid(file.get_ints("floats").status(), {"'floats'", "array of f32", "integers"});
  invalid(file.get_ints("bools").status(), {"'bools'", "array of bool"});
  invalid(file.get_ints("u8").status(), {"'u8'", "array"});
  invalid(file.get_floats("strings").status(), {"'strings'", "numbers"});
}

TEST(GgufFile, RefusesIntegersBeyondInt64InAnArray) {
  GgufBuilder builder;
  builder.numbers("large", GgufKind::U64, std::vector<std::uint64_t>{1, 0x8000000000000000u});
  builder.numbers("fits", GgufKind::U64, std::vector<std::uint64_t>{1, 0x7fffffffffffffffu});
  const std::string bytes = builder.build();
  const auto file = parse(bytes).value();
  expect_status(file.get_ints("large").status(), StatusCode::InvalidArgument,
                {"'large'", "element 1", "9223372036854775808"});
  EXPECT_EQ(file.get_ints("fits").value()[1], std::numeric_limits<std::int64_t>::max());
}

TEST(GgufFile, GivesTensorsWithShapeTypeAndBytes) {
  const std::string bytes = every_kind_and_type().build();
  const auto file = parse(bytes).value();
  ASSERT_EQ(file.tensors().size(), 6u);
  EXPECT_EQ(file.tensors()[0].name, "f32.weight");  // the file's order, not the alphabet's
  const std::vector<std::pair<std::string, std::size_t>> sizes = {{"f32.weight", 24},  {"f16.weight", 10},
                                                                  {"bf16.weight", 32}, {"q8_0.weight", 68},
                                                                  {"q4_0.weight", 36}, {"q4_1.weight", 40}};
  for (const auto& [name, size] : sizes) {
    const GgufTensor* tensor = file.find_tensor(name);
    ASSERT_NE(tensor, nullptr) << name;
    ASSERT_EQ(tensor->data.size(), size) << name;
    EXPECT_EQ(tensor->rows() * tensor->row_bytes(), size) << name;
    EXPECT_EQ((tensor->data.data() - as_bytes(bytes).data()) % 32, 0) << name;
    for (std::size_t i = 0; i < size; ++i)
      ASSERT_EQ(static_cast<unsigned char>(tensor->data[i]), static_cast<unsigned char>(i * 7));
  }
  EXPECT_EQ(file.find_tensor("bf16.weight")->shape, (std::array<std::uint64_t, 4>{2, 2, 2, 2}));
  EXPECT_EQ(file.find_tensor("q4_1.weight")->rows(), 2u);
  EXPECT_EQ(file.find_tensor("q4_1"), nullptr);
  EXPECT_EQ(file.find_tensor(""), nullptr);
  EXPECT_TRUE(file.get_tensor("f32.weight", {3, 2}).ok());
  EXPECT_TRUE(file.get_tensor("f32.weight", {3, 2, 1}).ok());
  expect_status(file.get_tensor("f32.weight", {2, 3}).status(), StatusCode::InvalidArgument,
                {"test.gguf", "'f32.weight'", "[3, 2]", "[2, 3]"});
  expect_status(file.get_tensor("absent", {1}).status(), StatusCode::InvalidArgument,
                {"test.gguf", "'absent'", "missing"});
}

TEST(GgufFile, HonoursTheAlignmentKey) {
  for (const std::uint32_t alignment : {8u, 64u, 4096u}) {
    GgufBuilder builder;
    builder.alignment = alignment;
    builder.number("general.alignment", GgufKind::U32, alignment);
    builder.tensor("a", {3}, TensorType::F32, "abcdabcdabcd").tensor("b", {1}, TensorType::F32, "wxyz");
    const std::string bytes = builder.build();
    const auto file = parse(bytes);
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    const auto* b = file->find_tensor("b");
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(b->data.data()), b->data.size()), "wxyz");
    EXPECT_EQ((b->data.data() - as_bytes(bytes).data()) % alignment, 0u);
  }
}

TEST(GgufFile, AcceptsAFileWithoutTensorsOrMetadata) {
  const std::string bytes = GgufBuilder().build();
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->find("x"), nullptr);
}

TEST(GgufFile, OpensAFileAndStaysValidWhenMoved) {
  const TemporaryDirectory directory;
  const std::string path = directory / "model.gguf";
  const std::string bytes = every_kind_and_type().build();
  std::ofstream(path, std::ios::binary) << bytes;
  auto opened = GgufFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  const std::string_view text = opened->get_string("string").value();
  GgufFile moved = std::move(*opened);
  std::filesystem::remove(path);  // the mapping keeps the contents
  GgufFile assigned = parse(bytes).value();
  assigned = std::move(moved);
  EXPECT_EQ(assigned.path(), path);
  EXPECT_EQ(text, "h\xc3\xa9llo");
  EXPECT_EQ(assigned.get_strings("strings").value().size(), 3u);
  EXPECT_EQ(assigned.find_tensor("q8_0.weight")->data.size(), 68u);
}

TEST(GgufFileOpen, SaysWhatIsWrongWithThePath) {
  const TemporaryDirectory directory;
  expect_status(GgufFile::open(directory / "absent.gguf").status(), StatusCode::NotFound,
                {"absent.gguf", "no such file"});
  expect_status(GgufFile::open("").status(), StatusCode::InvalidArgument, {"empty"});
  expect_status(GgufFile::open(directory.path()).status(), StatusCode::InvalidArgument,
                {directory.path(), "directory"});
  std::ofstream(directory / "empty.gguf").close();
  expect_status(GgufFile::open(directory / "empty.gguf").status(), StatusCode::InvalidArgument,
                {"empty.gguf", "is empty"});
  expect_status(GgufFile::open(directory / "empty.gguf" + "/x").status(), StatusCode::NotFound, {"no such file"});
  // A pipe without a writer must not block.
  ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
  expect_status(GgufFile::open(directory / "pipe").status(), StatusCode::InvalidArgument, {"pipe", "regular file"});
  expect_status(GgufFile::open(std::string("a\0b", 3)).status(), StatusCode::InvalidArgument, {"zero byte"});
  if (::geteuid() != 0) {
    std::ofstream(directory / "secret.gguf") << "GGUF";
    ASSERT_EQ(::chmod((directory / "secret.gguf").c_str(), 0), 0);
    expect_status(GgufFile::open(directory / "secret.gguf").status(), StatusCode::InvalidArgument,
                  {"secret.gguf", "ermission"});
  }
}

std::string model_path() {
  if (const char* path = std::getenv("TIERCEL_MODEL")) return path;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = cache && *cache ? cache : std::string(home ? home : "") + "/.cache";
  return base + "/tiercel/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

TEST(GgufFile, ReadsARealModel) {
  const auto file = GgufFile::open(model_path());
  ASSERT_TRUE(file.ok()) << file.status().to_string()
                         << "; run ./quickstart, which fetches the model, or set TIERCEL_MODEL";
  EXPECT_EQ(file->get_string("general.architecture").value(), "llama");
  EXPECT_EQ(file->get_uint("llama.block_count").value(), 30u);
  EXPECT_EQ(file->get_uint("llama.embedding_length").value(), 576u);
  EXPECT_FLOAT_EQ(static_cast<float>(file->get_float("llama.attention.layer_norm_rms_epsilon").value()), 1e-5f);
  const auto tokens = file->get_strings("tokenizer.ggml.tokens").value();
  ASSERT_EQ(tokens.size(), 49152u);
  EXPECT_EQ(tokens[0], "<|endoftext|>");
  EXPECT_EQ(file->get_strings("tokenizer.ggml.merges").value().size(), 48900u);
  EXPECT_EQ(file->get_ints("tokenizer.ggml.token_type").value()[0], 3);
  EXPECT_EQ(file->tensors().size(), 272u);
  EXPECT_EQ(file->get_tensor("token_embd.weight", {576, 49152}).value().type, TensorType::Q8_0);
  EXPECT_EQ(file->get_tensor("blk.29.ffn_down.weight", {1536, 576}).value().type, TensorType::Q4_1);
}

}  // namespace
}  // namespace tiercel
