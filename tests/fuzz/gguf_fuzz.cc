// Any bytes as a GGUF file: a clear Status, or a file that can be read from end to end.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/dequantize.h"
#include "gguf/gguf_file.h"
#include "tests/fuzz/expect.h"

namespace {

// Reads each byte, so that a view beyond the input is seen.
void touch(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  volatile unsigned sink = sum;
  (void)sink;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tiercel;
  auto file = GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  if (!file.ok()) {
    TIERCEL_FUZZ_EXPECT(file.status().code() == StatusCode::InvalidArgument);
    const std::string message = file.status().message();
    for (const char c : message) TIERCEL_FUZZ_EXPECT(c >= 0x20 && c < 0x7f);
    return 0;
  }
  for (const GgufValue& value : file->metadata()) {
    TIERCEL_FUZZ_EXPECT(file->find(value.key) == &value);
    touch(value.bytes);
    (void)file->get_uint(value.key);
    (void)file->get_float(value.key);
    (void)file->get_bool(value.key);
    if (auto text = file->get_string(value.key); text.ok()) touch(std::as_bytes(std::span(*text)));
    if (auto texts = file->get_strings(value.key); texts.ok()) {
      for (const std::string_view text : *texts) touch(std::as_bytes(std::span(text)));
    }
    (void)file->get_ints(value.key);
    (void)file->get_floats(value.key);
  }
  std::size_t tensor_bytes = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    TIERCEL_FUZZ_EXPECT(file->find_tensor(tensor.name) == &tensor);
    TIERCEL_FUZZ_EXPECT(tensor.rows() * tensor.row_bytes() == tensor.data.size());
    tensor_bytes += tensor.data.size();
    std::vector<float> values(tensor.columns() * tensor.rows());
    dequantize(tensor.type, tensor.data, values);
  }
  TIERCEL_FUZZ_EXPECT(tensor_bytes <= size);  // tensors do not overlap
  return 0;
}
