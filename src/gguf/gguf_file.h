// A GGUF version 3 model file, mapped into memory and checked.
//
// Format: the GGUF specification of the ggml project (docs/gguf.md there): header, metadata key-values, tensor infos,
// aligned tensor data; little-endian. open() checks every offset, count, length, alignment and string against the
// file's size before it is used, so that afterwards nothing here can read outside the file, whoever wrote it.
//
// Ownership: views returned (strings, tensor data) point into the mapping and live as long as the GgufFile.
// Thread-safety: immutable after open(); any thread may read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tiercel/status.h"

namespace tiercel {

// Element types that tiercel computes with; the numbers are those of the format.
enum class TensorType : std::uint32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, BF16 = 30 };
std::string_view to_string(TensorType type);  // "F32", "Q4_1", ...
// Elements and bytes of one block of a type: 1 and 2 for F16, 32 and 20 for Q4_1.
std::size_t block_elements(TensorType type);
std::size_t block_bytes(TensorType type);

struct GgufTensor {
  std::string_view name;
  TensorType type = TensorType::F32;
  // As the file has it: fastest-varying dimension first, unused ones 1. A weight [out, in] has shape {in, out, 1, 1}.
  std::array<std::uint64_t, 4> shape{1, 1, 1, 1};
  std::span<const std::byte> data;

  std::uint64_t columns() const { return shape[0]; }
  std::uint64_t rows() const { return shape[1] * shape[2] * shape[3]; }
  std::size_t row_bytes() const { return columns() / block_elements(type) * block_bytes(type); }
};

// The file's own numbers for kinds of metadata values.
enum class GgufKind : std::uint32_t {
  U8 = 0,
  I8 = 1,
  U16 = 2,
  I16 = 3,
  U32 = 4,
  I32 = 5,
  F32 = 6,
  Bool = 7,
  String = 8,
  Array = 9,
  U64 = 10,
  I64 = 11,
  F64 = 12
};

// One metadata value, still in the file's bytes, whose extent has been checked.
struct GgufValue {
  std::string_view key;
  GgufKind kind = GgufKind::U8;
  GgufKind element_kind = GgufKind::U8;  // of an array
  std::uint64_t count = 1;               // elements of an array, else 1
  std::span<const std::byte> bytes;      // of the value, after kind, element kind and count
};

class GgufFile {
 public:
  // Maps `path`. NotFound: no such file. InvalidArgument: not a regular file, not GGUF, another version, truncated, or
  // inconsistent: the message names the file, what is wrong, and the place (byte offset, key or tensor).
  static Result<GgufFile> open(const std::string& path);
  // The same over bytes that the caller keeps alive; `name` stands in messages. For tests and fuzzing.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string name);

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& path() const;
  std::span<const GgufValue> metadata() const;  // sorted by key
  std::span<const GgufTensor> tensors() const;  // in the order of the file

  // nullptr where there is none.
  const GgufValue* find(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  // Typed reads; any integer kind serves as integer, any number as float. InvalidArgument naming file and key where it
  // is missing, of another kind or out of range.
  Result<std::uint64_t> get_uint(std::string_view key) const;
  Result<double> get_float(std::string_view key) const;
  Result<bool> get_bool(std::string_view key) const;
  Result<std::string_view> get_string(std::string_view key) const;
  Result<std::vector<std::string_view>> get_strings(std::string_view key) const;
  Result<std::vector<std::int64_t>> get_ints(std::string_view key) const;
  Result<std::vector<double>> get_floats(std::string_view key) const;
  // The tensor, checked to have exactly `shape` (file order, trailing ones left out).
  Result<GgufTensor> get_tensor(std::string_view name, std::initializer_list<std::uint64_t> shape) const;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tiercel
