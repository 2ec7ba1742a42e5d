// Writes GGUF files into memory, for tests: good ones, and bad ones where a test asks for that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"

namespace tiercel {

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
inline std::string string_bytes(std::string_view text) {
  return bytes_of<std::uint64_t>(text.size()) + std::string(text);
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

class GgufBuilder {
 public:
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // of the layout; write the key "general.alignment" beside it
  // In place of the true counts.
  std::optional<std::uint64_t> tensor_count;
  std::optional<std::uint64_t> key_count;

  // `value`: its bytes after the kind.
  GgufBuilder& raw(std::string_view key, std::uint32_t kind, std::string_view value) {
    metadata_ += string_bytes(key) + bytes_of(kind) + std::string(value);
    ++keys_;
    return *this;
  }
  template <class T>
  GgufBuilder& number(std::string_view key, GgufKind kind, T value) {
    return raw(key, static_cast<std::uint32_t>(kind), bytes_of(value));
  }
  GgufBuilder& text(std::string_view key, std::string_view value) { return raw(key, 8, string_bytes(value)); }
  template <class T>
  GgufBuilder& numbers(std::string_view key, GgufKind kind, const std::vector<T>& values) {
    std::string bytes = bytes_of(kind) + bytes_of<std::uint64_t>(values.size());
    for (const T& value : values) bytes += bytes_of(value);
    return raw(key, 9, bytes);
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes = bytes_of(GgufKind::String) + bytes_of<std::uint64_t>(values.size());
    for (const std::string& value : values) bytes += string_bytes(value);
    return raw(key, 9, bytes);
  }

  // Placed behind the one before, or at `offset` of the data section; the section grows as needed.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                      std::string_view data, std::optional<std::uint64_t> offset = std::nullopt) {
    const std::uint64_t place = offset.value_or((data_.size() + alignment - 1) / alignment * alignment);
    infos_ += string_bytes(name) + bytes_of(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t dimension : shape) infos_ += bytes_of(dimension);
    infos_ += bytes_of(type) + bytes_of(place);
    if (!data.empty()) {
      if (data_.size() < place + data.size()) data_.resize(place + data.size());
      data_.replace(place, data.size(), data);
    }
    ++tensors_;
    return *this;
  }
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& shape, TensorType type,
                      std::string_view data) {
    return tensor(name, shape, static_cast<std::uint32_t>(type), data);
  }

  // Header, metadata and tensor infos.
  std::string head() const {
    return magic + bytes_of(version) + bytes_of(tensor_count.value_or(tensors_)) + bytes_of(key_count.value_or(keys_)) +
           metadata_ + infos_;
  }
  std::string build() const {
    std::string file = head();
    if (tensors_ > 0) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  std::uint64_t keys_ = 0;
  std::uint64_t tensors_ = 0;
  std::string metadata_;
  std::string infos_;
  std::string data_;
};

// A small file with a value of every kind and a tensor of every type.
inline GgufBuilder every_kind_and_type() {
  GgufBuilder file;
  file.number("u8", GgufKind::U8, std::uint8_t{200}).number("i8", GgufKind::I8, std::int8_t{-100});
  file.number("u16", GgufKind::U16, std::uint16_t{60000}).number("i16", GgufKind::I16, std::int16_t{-30000});
  file.number("u32", GgufKind::U32, std::uint32_t{4000000000}).number("i32", GgufKind::I32, std::int32_t{-2000000000});
  file.number("u64", GgufKind::U64, std::uint64_t{18000000000000000000u});
  file.number("i64", GgufKind::I64, std::int64_t{-9000000000000000000});
  file.number("f32", GgufKind::F32, 1.5f).number("f64", GgufKind::F64, -2.25);
  file.number("true", GgufKind::Bool, std::uint8_t{1}).number("false", GgufKind::Bool, std::uint8_t{0});
  file.text("string", "h\xc3\xa9llo").text("empty string", "");
  file.numbers("ints", GgufKind::I16, std::vector<std::int16_t>{-3, 0, 7});
  file.numbers("floats", GgufKind::F32, std::vector<float>{0.5f, -8.0f});
  file.numbers("bools", GgufKind::Bool, std::vector<std::uint8_t>{1, 0, 1});
  file.numbers("no ints", GgufKind::U32, std::vector<std::uint32_t>{});
  file.texts("strings", {"a", "", "ccc"});
  const std::string inner_strings = bytes_of(GgufKind::String) + bytes_of<std::uint64_t>(1) + string_bytes("deep");
  const std::string inner_ints = bytes_of(GgufKind::U8) + bytes_of<std::uint64_t>(3) + "xyz";
  file.raw("nested", 9, bytes_of(GgufKind::Array) + bytes_of<std::uint64_t>(2) + inner_strings + inner_ints);
  const auto ramp = [](std::size_t size) {
    std::string bytes;
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 7);
    return bytes;
  };
  file.tensor("f32.weight", {3, 2}, TensorType::F32, ramp(24)).tensor("f16.weight", {5}, TensorType::F16, ramp(10));
  file.tensor("bf16.weight", {2, 2, 2, 2}, TensorType::BF16, ramp(32))
      .tensor("q8_0.weight", {32, 2}, TensorType::Q8_0, ramp(68));
  file.tensor("q4_0.weight", {64}, TensorType::Q4_0, ramp(36))
      .tensor("q4_1.weight", {32, 1, 2}, TensorType::Q4_1, ramp(40));
  return file;
}

}  // namespace tiercel
