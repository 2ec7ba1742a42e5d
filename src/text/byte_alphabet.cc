#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace tiercel {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::size_t kAlphabetEnd = 0x100 + 68;  // 68 bytes do not stand for themselves

constexpr auto kByteOfCharacter = [] {
  std::array<std::int16_t, kAlphabetEnd> table{};
  table.fill(-1);
  std::size_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte)
    table[stands_for_itself(byte) ? byte : next++] = static_cast<std::int16_t>(byte);
  return table;
}();

}  // namespace

bool append_alphabet_bytes(std::string_view token, std::string& out) {
  const std::size_t before = out.size();
  while (!token.empty()) {
    const Utf8Start start = read_utf8(token);
    if (start.kind != Utf8Start::Kind::Character || start.code_point >= kAlphabetEnd ||
        kByteOfCharacter[start.code_point] < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kByteOfCharacter[start.code_point]));
    token.remove_prefix(start.length);
  }
  return true;
}

}  // namespace tiercel
