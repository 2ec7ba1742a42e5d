#include "gguf/gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "gguf/gguf_parser.h"

namespace tiercel {
namespace {

// A whole file in memory, read only; empty where nothing is mapped.
class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

std::string system_message(int error) { return std::error_code(error, std::generic_category()).message(); }

Result<Mapping> map_file(const std::string& path) {
  if (path.empty()) return Status::invalid_argument("the model path is empty; give the path of a GGUF file");
  if (path.find('\0') != std::string::npos) return Status::invalid_argument("the model path contains a zero byte");
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.number() < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) return Status::not_found(fmt::format("{}: no such file", path));
    const std::string message = fmt::format("{}: cannot be opened: {}", path, system_message(error));
    if (error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO) return Status::unavailable(message);
    return Status::invalid_argument(message);
  }
  struct stat info {};
  if (::fstat(file.number(), &info) != 0) {
    return Status::unavailable(fmt::format("{}: cannot be examined: {}", path, system_message(errno)));
  }
  if (S_ISDIR(info.st_mode))
    return Status::invalid_argument(fmt::format("{}: is a directory; give the GGUF file in it", path));
  if (!S_ISREG(info.st_mode)) return Status::invalid_argument(fmt::format("{}: not a regular file", path));
  if (info.st_size == 0) return Status::invalid_argument(fmt::format("{}: the file is empty; fetch it again", path));

  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (address == MAP_FAILED) {
    return Status::unavailable(fmt::format("{}: cannot be mapped into memory: {}", path, system_message(errno)));
  }
  return Mapping({static_cast<const std::byte*>(address), size});
}

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Calls `use` with one scalar of the file in its own type. Never called for strings and arrays.
template <class Use>
auto with_number(GgufKind kind, const std::byte* bytes, Use use) {
  switch (kind) {
    case GgufKind::U8:
    case GgufKind::Bool: return use(load<std::uint8_t>(bytes));
    case GgufKind::I8: return use(load<std::int8_t>(bytes));
    case GgufKind::U16: return use(load<std::uint16_t>(bytes));
    case GgufKind::I16: return use(load<std::int16_t>(bytes));
    case GgufKind::U32: return use(load<std::uint32_t>(bytes));
    case GgufKind::I32: return use(load<std::int32_t>(bytes));
    case GgufKind::U64: return use(load<std::uint64_t>(bytes));
    case GgufKind::I64: return use(load<std::int64_t>(bytes));
    case GgufKind::F32: return use(load<float>(bytes));
    case GgufKind::F64: return use(load<double>(bytes));
    case GgufKind::String:
    case GgufKind::Array: break;
  }
  return use(std::uint8_t{0});
}

bool is_integer(GgufKind kind) {
  return scalar_bytes(kind) != 0 && kind != GgufKind::Bool && kind != GgufKind::F32 && kind != GgufKind::F64;
}
bool is_number(GgufKind kind) { return scalar_bytes(kind) != 0 && kind != GgufKind::Bool; }

// "u32", or "array of string"
std::string describe(const GgufValue& value) {
  if (value.kind != GgufKind::Array) return std::string(to_string(value.kind));
  return fmt::format("array of {}", to_string(value.element_kind));
}

// "[576, 1536]": trailing ones left out, as in get_tensor().
std::string describe(std::array<std::uint64_t, 4> shape) {
  std::size_t dimensions = shape.size();
  while (dimensions > 1 && shape[dimensions - 1] == 1) --dimensions;
  std::string text;
  for (std::size_t i = 0; i < dimensions; ++i) text += (i == 0 ? "[" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

struct GgufFile::Impl {
  Mapping mapping;
  std::string path;
  GgufContents contents;

  const GgufValue* find(std::string_view key) const {
    const auto found = std::ranges::lower_bound(contents.metadata, key, {}, &GgufValue::key);
    return found == contents.metadata.end() || found->key != key ? nullptr : &*found;
  }
  Result<const GgufValue*> require(std::string_view key) const {
    if (const GgufValue* value = find(key)) return value;
    return Status::invalid_argument(fmt::format("{}: metadata key {} is missing", path, quoted(key)));
  }
  Status wrong_kind(const GgufValue& value, std::string_view expected) const {
    return Status::invalid_argument(fmt::format("{}: metadata key {} is of kind {}; it must be {}", path,
                                                quoted(value.key), describe(value), expected));
  }
  Status out_of_range(std::string_view key, const std::string& value) const {
    return Status::invalid_argument(fmt::format("{}: metadata key {} is out of range: {}", path, quoted(key), value));
  }
};

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

Result<GgufFile> GgufFile::open(const std::string& path) {
  auto mapping = map_file(path);
  if (!mapping.ok()) return mapping.status();
  auto file = parse(mapping->bytes(), path);
  if (file.ok()) file->impl_->mapping = std::move(*mapping);
  return file;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  auto contents = parse_gguf(bytes, name);
  if (!contents.ok()) return contents.status();
  auto impl = std::make_unique<Impl>();
  impl->path = std::move(name);
  impl->contents = std::move(*contents);
  return GgufFile(std::move(impl));
}

const std::string& GgufFile::path() const { return impl_->path; }
std::span<const GgufValue> GgufFile::metadata() const { return impl_->contents.metadata; }
std::span<const GgufTensor> GgufFile::tensors() const { return impl_->contents.tensors; }

const GgufValue* GgufFile::find(std::string_view key) const { return impl_->find(key); }

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto& order = impl_->contents.tensors_by_name;
  const auto name_of = [&](std::uint32_t i) { return impl_->contents.tensors[i].name; };
  const auto found = std::ranges::lower_bound(order, name, {}, name_of);
  return found == order.end() || name_of(*found) != name ? nullptr : &impl_->contents.tensors[*found];
}

Result<std::uint64_t> GgufFile::get_uint(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  const GgufKind kind = (*value)->kind;
  if (!is_integer(kind)) return impl_->wrong_kind(**value, "an integer");
  return with_number(kind, (*value)->bytes.data(), [&](auto number) -> Result<std::uint64_t> {
    if (number < 0) return impl_->out_of_range(key, fmt::format("{}; it must be at least 0", number));
    return static_cast<std::uint64_t>(number);
  });
}

Result<double> GgufFile::get_float(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  if (!is_number((*value)->kind)) return impl_->wrong_kind(**value, "a number");
  return with_number((*value)->kind, (*value)->bytes.data(), [](auto number) { return static_cast<double>(number); });
}

Result<bool> GgufFile::get_bool(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  if ((*value)->kind != GgufKind::Bool) return impl_->wrong_kind(**value, "a bool");
  return load<std::uint8_t>((*value)->bytes.data()) != 0;
}

Result<std::string_view> GgufFile::get_string(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  if ((*value)->kind != GgufKind::String) return impl_->wrong_kind(**value, "a string");
  const auto text = (*value)->bytes.subspan(sizeof(std::uint64_t));
  return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
}

Result<std::vector<std::string_view>> GgufFile::get_strings(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  if ((*value)->kind != GgufKind::Array || (*value)->element_kind != GgufKind::String) {
    return impl_->wrong_kind(**value, "an array of string");
  }
  std::vector<std::string_view> strings;
  strings.reserve((*value)->count);
  const std::byte* at = (*value)->bytes.data();
  for (std::uint64_t i = 0; i < (*value)->count; ++i) {
    const auto size = load<std::uint64_t>(at);
    strings.emplace_back(reinterpret_cast<const char*>(at + sizeof size), size);
    at += sizeof size + size;
  }
  return strings;
}

Result<std::vector<std::int64_t>> GgufFile::get_ints(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  const GgufKind kind = (*value)->element_kind;
  if ((*value)->kind != GgufKind::Array || !is_integer(kind)) return impl_->wrong_kind(**value, "an array of integers");
  std::vector<std::int64_t> numbers((*value)->count);
  for (std::uint64_t i = 0; i < numbers.size(); ++i) {
    const std::byte* at = (*value)->bytes.data() + i * scalar_bytes(kind);
    if (kind == GgufKind::U64 && load<std::uint64_t>(at) > std::numeric_limits<std::int64_t>::max()) {
      return impl_->out_of_range(key, fmt::format("element {} is {}", i, load<std::uint64_t>(at)));
    }
    numbers[i] = with_number(kind, at, [](auto number) { return static_cast<std::int64_t>(number); });
  }
  return numbers;
}

Result<std::vector<double>> GgufFile::get_floats(std::string_view key) const {
  const auto value = impl_->require(key);
  if (!value.ok()) return value.status();
  const GgufKind kind = (*value)->element_kind;
  if ((*value)->kind != GgufKind::Array || !is_number(kind)) return impl_->wrong_kind(**value, "an array of numbers");
  std::vector<double> numbers((*value)->count);
  for (std::uint64_t i = 0; i < numbers.size(); ++i) {
    const std::byte* at = (*value)->bytes.data() + i * scalar_bytes(kind);
    numbers[i] = with_number(kind, at, [](auto number) { return static_cast<double>(number); });
  }
  return numbers;
}

Result<GgufTensor> GgufFile::get_tensor(std::string_view name, std::initializer_list<std::uint64_t> shape) const {
  const GgufTensor* tensor = find_tensor(name);
  if (!tensor) return Status::invalid_argument(fmt::format("{}: tensor {} is missing", path(), quoted(name)));
  std::array<std::uint64_t, 4> expected{1, 1, 1, 1};
  if (shape.size() > expected.size())
    return Status::internal(fmt::format("a shape of {} dimensions was asked for", shape.size()));
  std::ranges::copy(shape, expected.begin());
  if (tensor->shape != expected) {
    return Status::invalid_argument(fmt::format("{}: tensor {} has shape {}; it must be {}", path(), quoted(name),
                                                describe(tensor->shape), describe(expected)));
  }
  return *tensor;
}

}  // namespace tiercel
