#include "gguf/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "gguf/tensor_type.h"

namespace tiercel {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian and so are the machines it is read on");

constexpr std::uint32_t kVersion = 3;
constexpr std::uint64_t kDefaultAlignment = 32;
// Real models have some hundred keys and some thousand tensors; the limits keep hostile files from costing memory.
constexpr std::uint64_t kMaxKeys = 1 << 16;
constexpr std::uint64_t kMaxTensors = 1 << 20;
constexpr std::uint64_t kMaxNameBytes = 65535;  // of a key, by the specification
constexpr int kMaxArrayDepth = 8;
// The least bytes that an entry can take, to hold counts against what is left of the file.
constexpr std::uint64_t kLeastKeyValueBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kStringHeaderBytes = 8;
constexpr std::uint64_t kArrayHeaderBytes = 4 + 8;

// Reads on through the file. The first failure stays in status(), and every later read fails too and gives zeros.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string_view file_name) : bytes_(bytes), file_name_(file_name) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }

  void fail(const std::string& what) {
    if (ok()) status_ = Status::invalid_argument(fmt::format("{}: {}", file_name_, what));
  }

  // `what` says in a message what was being read.
  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (!ok()) return {};
    if (size > remaining()) {
      fail(fmt::format(
          "{} at byte {} needs {} bytes, but only {} are left; the file is truncated or damaged, fetch it again", what,
          position_, size, remaining()));
      return {};
    }
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  template <class T>
  T number(std::string_view what) {
    T value{};
    const auto taken = take(sizeof value, what);
    if (!taken.empty()) std::memcpy(&value, taken.data(), sizeof value);
    return value;
  }

  // How many entries follow, each of at least `least_bytes`.
  std::uint64_t count(std::uint64_t least_bytes, std::string_view what) {
    const std::uint64_t at = position_;
    const auto value = number<std::uint64_t>(what);
    if (ok() && value > remaining() / least_bytes) {
      fail(fmt::format(
          "{} at byte {} is {}, more than the {} bytes left can hold; the file is truncated or damaged, fetch it again",
          what, at, value, remaining()));
    }
    return ok() ? value : 0;
  }

  std::string_view string(std::string_view what) {
    const std::uint64_t size = count(1, what);
    const auto taken = take(size, what);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  // A key or a tensor's name.
  std::string_view name(std::string_view what) {
    const std::uint64_t at = position_;
    const std::string_view text = string(what);
    if (!ok()) return {};
    if (text.empty() || text.size() > kMaxNameBytes) {
      fail(fmt::format("{} at byte {} has {} bytes; allowed: 1 to {}", what, at, text.size(), kMaxNameBytes));
    } else if (!std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; })) {
      fail(fmt::format("{} at byte {} is {}; allowed: printable ASCII", what, at, quoted(text)));
    }
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_name_;
  std::uint64_t position_ = 0;
  Status status_;
};

bool is_kind(std::uint32_t number) { return number <= static_cast<std::uint32_t>(GgufKind::F64); }

// What a file that is no GGUF probably is, for the one who passed it.
std::string_view guess_format(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 64));
  if (text.starts_with("version https://git-lfs")) return "a Git LFS pointer; fetch the file itself with git lfs pull";
  if (text.starts_with("lmgg") || text.starts_with("tjgg") || text.starts_with("fmgg") || text.starts_with("algg")) {
    return "a GGML file from before GGUF; convert it to GGUF";
  }
  if (text.starts_with("PK\x03\x04")) return "a ZIP archive, perhaps a PyTorch checkpoint; convert it to GGUF";
  if (text.starts_with("<!") || text.starts_with("<html")) return "an HTML page; the download failed";
  if (text.size() > 9 && text.substr(8, 2) == "{\"") return "perhaps a safetensors file; convert it to GGUF";
  return "";
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, std::string_view file_name) : bytes_(bytes), in_(bytes, file_name) {}

  Result<GgufContents> parse() {
    read_header();
    read_metadata();
    read_tensor_infos();
    place_tensors();
    if (!in_.ok()) return in_.status();
    return std::move(contents_);
  }

 private:
  void read_header() {
    const auto magic = in_.take(4, "the magic number");
    if (!in_.ok()) return;
    if (std::memcmp(magic.data(), "GGUF", 4) != 0) {
      const std::string_view guess = guess_format(bytes_);
      return in_.fail(
          fmt::format("not a GGUF file (it does not begin with \"GGUF\"){}{}", guess.empty() ? "" : ": ", guess));
    }
    const auto version = in_.number<std::uint32_t>("the version");
    if (!in_.ok()) return;
    if (version != kVersion && (version & 0xffff) == 0 && version != 0) {
      return in_.fail("big-endian GGUF is not supported; convert it to little-endian");
    }
    if (version != kVersion) {
      return in_.fail(
          fmt::format("GGUF version {} is not supported, only version {}; convert the model again with current tools",
                      version, kVersion));
    }
    tensor_count_ = in_.number<std::uint64_t>("the tensor count");
    key_count_ = in_.count(kLeastKeyValueBytes, "the metadata count");
    if (tensor_count_ > in_.remaining() / kLeastTensorInfoBytes) {
      in_.fail(fmt::format(
          "the tensor count at byte 8 is {}, more than the {} bytes left can hold; the file is truncated or damaged, "
          "fetch it again",
          tensor_count_, in_.remaining()));
    }
    if (tensor_count_ > kMaxTensors || key_count_ > kMaxKeys) {
      in_.fail(fmt::format("{} tensors and {} metadata keys; supported: at most {} and {}", tensor_count_, key_count_,
                           kMaxTensors, kMaxKeys));
    }
  }

  void read_metadata() {
    if (!in_.ok()) return;
    contents_.metadata.reserve(key_count_);
    for (std::uint64_t i = 0; i < key_count_ && in_.ok(); ++i) {
      GgufValue value;
      value.key = in_.name("a metadata key");
      value.kind = read_kind(value.key);
      if (value.kind == GgufKind::Array) std::tie(value.element_kind, value.count) = read_array_header(value.key);
      const std::uint64_t begin = in_.position();
      skip_values(value.key, value.kind == GgufKind::Array ? value.element_kind : value.kind, value.count, 1);
      value.bytes = bytes_.subspan(begin, in_.position() - begin);
      contents_.metadata.push_back(value);
    }
    std::ranges::sort(contents_.metadata, {}, &GgufValue::key);
    const auto twice = std::ranges::adjacent_find(contents_.metadata, {}, &GgufValue::key);
    if (twice != contents_.metadata.end()) in_.fail(fmt::format("metadata key {} appears twice", quoted(twice->key)));
    read_alignment();
  }

  GgufKind read_kind(std::string_view key) {
    const std::uint64_t at = in_.position();
    const auto number = in_.number<std::uint32_t>("the kind of a metadata value");
    if (!is_kind(number)) {
      in_.fail(fmt::format("metadata key {}: unknown kind {} at byte {}", quoted(key), number, at));
      return GgufKind::U8;
    }
    return static_cast<GgufKind>(number);
  }

  std::pair<GgufKind, std::uint64_t> read_array_header(std::string_view key) {
    const GgufKind kind = read_kind(key);
    const std::uint64_t least_bytes = kind == GgufKind::String  ? kStringHeaderBytes
                                      : kind == GgufKind::Array ? kArrayHeaderBytes
                                                                : scalar_bytes(kind);
    return {kind, in_.count(least_bytes, "the element count of a metadata array")};
  }

  // Moves past `count` values, checking each. `depth`: 1 for the elements of an outermost array.
  void skip_values(std::string_view key, GgufKind kind, std::uint64_t count, int depth) {
    if (kind == GgufKind::String) {
      for (std::uint64_t i = 0; i < count && in_.ok(); ++i) in_.string("a metadata string");
    } else if (kind == GgufKind::Array) {
      if (depth >= kMaxArrayDepth) {
        return in_.fail(fmt::format("metadata key {}: arrays nested deeper than {} at byte {}", quoted(key),
                                    kMaxArrayDepth, in_.position()));
      }
      for (std::uint64_t i = 0; i < count && in_.ok(); ++i) {
        const auto [element_kind, element_count] = read_array_header(key);
        skip_values(key, element_kind, element_count, depth + 1);
      }
    } else {
      // The count was held against the bytes left, so the product cannot overflow.
      const std::uint64_t begin = in_.position();
      const auto values = in_.take(count * scalar_bytes(kind), "a metadata value");
      if (kind != GgufKind::Bool) return;
      const auto bad = std::ranges::find_if(values, [](std::byte b) { return b > std::byte{1}; });
      if (bad != values.end()) {
        in_.fail(fmt::format("metadata key {}: bool at byte {} is {}; allowed: 0 and 1", quoted(key),
                             begin + static_cast<std::uint64_t>(bad - values.begin()), std::to_integer<int>(*bad)));
      }
    }
  }

  void read_alignment() {
    if (!in_.ok()) return;
    const auto found = std::ranges::lower_bound(contents_.metadata, "general.alignment", {}, &GgufValue::key);
    if (found == contents_.metadata.end() || found->key != "general.alignment") return;
    if (found->kind != GgufKind::U32) {
      return in_.fail(fmt::format("general.alignment is of kind {}; it must be u32", to_string(found->kind)));
    }
    std::uint32_t alignment;
    std::memcpy(&alignment, found->bytes.data(), sizeof alignment);
    // The specification asks for a multiple of 8, every writer for a power of two.
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > (1u << 20)) {
      return in_.fail(fmt::format("general.alignment is {}; it must be a power of two from 8 to 1048576", alignment));
    }
    alignment_ = alignment;
  }

  void read_tensor_infos() {
    if (!in_.ok()) return;
    // The metadata has eaten some of what the count was held against.
    if (tensor_count_ > in_.remaining() / kLeastTensorInfoBytes) {
      return in_.fail(fmt::format(
          "{} tensor infos at byte {} do not fit the {} bytes left; the file is truncated or damaged, fetch it again",
          tensor_count_, in_.position(), in_.remaining()));
    }
    contents_.tensors.reserve(tensor_count_);
    offsets_.reserve(tensor_count_);
    for (std::uint64_t i = 0; i < tensor_count_ && in_.ok(); ++i) read_tensor_info();
    if (!in_.ok()) return;

    auto& order = contents_.tensors_by_name;
    order.resize(contents_.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    const auto name_of = [&](std::uint32_t i) { return contents_.tensors[i].name; };
    std::ranges::sort(order, {}, name_of);
    const auto twice = std::ranges::adjacent_find(order, {}, name_of);
    if (twice != order.end()) in_.fail(fmt::format("tensor {} appears twice", quoted(name_of(*twice))));
  }

  void read_tensor_info() {
    GgufTensor tensor;
    tensor.name = in_.name("a tensor name");
    const auto fail = [&](const std::string& what) {
      in_.fail(fmt::format("tensor {}: {}", quoted(tensor.name), what));
    };

    const std::uint64_t at = in_.position();
    const auto dimensions = in_.number<std::uint32_t>("the dimension count of a tensor");
    if (!in_.ok()) return;
    if (dimensions < 1 || dimensions > tensor.shape.size()) {
      return fail(fmt::format("{} dimensions at byte {}; allowed: 1 to {}", dimensions, at, tensor.shape.size()));
    }
    std::uint64_t elements = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      tensor.shape[i] = in_.number<std::uint64_t>("a dimension of a tensor");
      if (!in_.ok()) return;
      if (tensor.shape[i] == 0) return fail(fmt::format("dimension {} is 0", i));
      if (__builtin_mul_overflow(elements, tensor.shape[i], &elements)) return fail("its dimensions overflow 64 bits");
    }

    const auto number = in_.number<std::uint32_t>("the type of a tensor");
    const auto offset = in_.number<std::uint64_t>("the offset of a tensor");
    if (!in_.ok()) return;
    const auto type = supported_tensor_type(number);
    if (!type) {
      return fail(fmt::format("type {} is not supported; use a file whose tensors are {}", describe_tensor_type(number),
                              supported_tensor_types()));
    }
    tensor.type = *type;
    if (tensor.columns() % block_elements(*type) != 0) {
      return fail(fmt::format("{} columns of type {}, which comes in blocks of {}", tensor.columns(), to_string(*type),
                              block_elements(*type)));
    }
    // Where this overflows, no file could hold the tensor.
    std::uint64_t size = 0;
    if (__builtin_mul_overflow(elements / block_elements(*type), std::uint64_t{block_bytes(*type)}, &size) ||
        size > bytes_.size()) {
      return fail(fmt::format(
          "{} elements of type {} do not fit the file's {} bytes; the file is truncated or damaged, fetch it again",
          elements, to_string(*type), bytes_.size()));
    }
    if (offset % alignment_ != 0)
      return fail(fmt::format("offset {} is not a multiple of the alignment {}", offset, alignment_));
    tensor.data = bytes_.first(size);  // place_tensors() moves it to where it belongs
    offsets_.push_back(offset);
    contents_.tensors.push_back(tensor);
  }

  // The data section begins after the tensor infos, at the next multiple of the alignment.
  void place_tensors() {
    if (!in_.ok() || contents_.tensors.empty()) return;
    const std::uint64_t begin = (in_.position() + alignment_ - 1) / alignment_ * alignment_;
    const std::uint64_t size = begin < bytes_.size() ? bytes_.size() - begin : 0;
    for (std::size_t i = 0; i < contents_.tensors.size(); ++i) {
      GgufTensor& tensor = contents_.tensors[i];
      if (offsets_[i] > size || tensor.data.size() > size - offsets_[i]) {
        return in_.fail(fmt::format(
            "tensor {}: {} bytes at offset {} of the data section go beyond its {} bytes; the file is truncated or "
            "damaged, fetch it again",
            quoted(tensor.name), tensor.data.size(), offsets_[i], size));
      }
      tensor.data = bytes_.subspan(begin + offsets_[i], tensor.data.size());
    }

    std::vector<const GgufTensor*> by_place;
    for (const GgufTensor& tensor : contents_.tensors) by_place.push_back(&tensor);
    std::ranges::sort(by_place, {}, [](const GgufTensor* tensor) { return tensor->data.data(); });
    const auto overlap = std::ranges::adjacent_find(by_place, [](const GgufTensor* left, const GgufTensor* right) {
      return left->data.data() + left->data.size() > right->data.data();
    });
    if (overlap != by_place.end()) {
      in_.fail(fmt::format("tensors {} and {} overlap", quoted((*overlap)->name), quoted((*std::next(overlap))->name)));
    }
  }

  std::span<const std::byte> bytes_;
  Cursor in_;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t key_count_ = 0;
  std::uint64_t alignment_ = kDefaultAlignment;
  std::vector<std::uint64_t> offsets_;  // of each tensor, within the data section
  GgufContents contents_;
};

}  // namespace

Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, std::string_view file_name) {
  return Parser(bytes, file_name).parse();
}

std::size_t scalar_bytes(GgufKind kind) {
  switch (kind) {
    case GgufKind::U8:
    case GgufKind::I8:
    case GgufKind::Bool: return 1;
    case GgufKind::U16:
    case GgufKind::I16: return 2;
    case GgufKind::U32:
    case GgufKind::I32:
    case GgufKind::F32: return 4;
    case GgufKind::U64:
    case GgufKind::I64:
    case GgufKind::F64: return 8;
    case GgufKind::String:
    case GgufKind::Array: return 0;
  }
  return 0;
}

std::string_view to_string(GgufKind kind) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string quoted(std::string_view name) {
  constexpr std::size_t kShownBytes = 96;
  std::string text = "'";
  for (const char c : name.substr(0, kShownBytes)) {
    if (c >= 0x20 && c < 0x7f) {
      text += c;
    } else {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text + (name.size() > kShownBytes ? "...'" : "'");
}

}  // namespace tiercel
