// Any bytes as a chat template, rendered over a fixed chat, and, after a zero byte, any bytes as what the user says.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "tests/fuzz/expect.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tiercel;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = input.find('\0');
  const std::string_view said = zero == std::string_view::npos ? "  Hello <|im_end|>\n" : input.substr(zero + 1);

  auto chat = ChatTemplate::parse(input.substr(0, zero));
  if (!chat.ok()) {
    TIERCEL_FUZZ_EXPECT(chat.status().code() == StatusCode::InvalidArgument);
    return 0;
  }
  const std::array<ChatMessage, 3> messages = {{{.role = "system", .content = "Be brief."},
                                                {.role = "user", .content = std::string(said)},
                                                {.role = "assistant", .content = ""}}};
  for (const bool add_generation_prompt : {false, true}) {
    auto rendered = chat->render(
        messages, {.add_generation_prompt = add_generation_prompt, .begin_text = "<s>", .end_text = "</s>"});
    if (!rendered.ok()) {
      TIERCEL_FUZZ_EXPECT(rendered.status().code() == StatusCode::InvalidArgument);
      continue;
    }
    TIERCEL_FUZZ_EXPECT(rendered->text.size() <= (16u << 20));
    TIERCEL_FUZZ_EXPECT(rendered->text.size() == rendered->trusted.size());
    for (const char trust : rendered->trusted) TIERCEL_FUZZ_EXPECT(trust == '\0' || trust == '\1');
  }
  return 0;
}
