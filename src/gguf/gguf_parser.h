// From the bytes of a GGUF file to its checked tables. Internal to src/gguf: everybody else uses GgufFile.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_file.h"

namespace tiercel {

// Views into the bytes that were parsed.
struct GgufContents {
  std::vector<GgufValue> metadata;  // sorted by key
  std::vector<GgufTensor> tensors;  // in the file's order
  std::vector<std::uint32_t> tensors_by_name;
};

// InvalidArgument as GgufFile::open() promises; `file_name` begins every message. Time is at most n log n in the file's
// size, and memory a small multiple of its metadata's.
Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view file_name);

// Bytes of one value of a kind that has a fixed size; 0 for strings and arrays.
std::size_t scalar_bytes(GgufKind kind);
std::string_view to_string(GgufKind kind);  // "u32", "string", ...

// A name out of a file as it may stand in a message: quoted, shortened, bytes that are not printable ASCII as \xNN.
std::string quoted(std::string_view name);

}  // namespace tiercel
