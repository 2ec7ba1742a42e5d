// Values as the bytes of a message between ranks, and back. Ranks are processes of one program on machines of one kind:
// values are sent as they are in memory.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

namespace tiercel {

template <class Value>
void append(std::vector<std::byte>& bytes, const Value* values, std::size_t count) {
  static_assert(std::is_trivially_copyable_v<Value>);
  const std::size_t end = bytes.size();
  bytes.resize(end + count * sizeof(Value));
  if (count > 0) std::memcpy(bytes.data() + end, values, count * sizeof(Value));
}

class MessageReader {
 public:
  explicit MessageReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // False: there are not so many.
  template <class Value>
  bool read(std::vector<Value>& values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<Value>);
    if (count > bytes_.size() / sizeof(Value)) return false;
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(Value));
    bytes_ = bytes_.subspan(count * sizeof(Value));
    return true;
  }
  template <class Value>
  bool read(Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    if (bytes_.size() < sizeof value) return false;
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return true;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace tiercel
