// A model's own chat template: the Jinja subset that published chat templates use, and nothing that could run code.
//
// docs/chat_templates.md lists what is understood. Anything beyond it is an InvalidArgument that names the construct
// and its line. Every byte of the result knows whether it came from the template (trusted: it may form special tokens)
// or from a message (not trusted), through concatenation, trimming, slicing and the like.
//
// Thread-safety: immutable; any thread may render.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tiercel/request.h"
#include "tiercel/status.h"

namespace tiercel {

struct RenderedChat {
  std::string text;
  std::string trusted;  // as long as text: '\1' where the byte came from the template, '\0' where from a message
};

class ChatTemplate {
 public:
  static Result<ChatTemplate> parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  struct Options {
    bool add_generation_prompt = true;
    std::string_view begin_text;  // bos_token in the template
    std::string_view end_text;    // eos_token
    // What strftime_now tells. Left out: the clock, in the local time zone.
    std::optional<std::tm> local_time = std::nullopt;
  };
  // InvalidArgument: the template refuses the messages (raise_exception, its own words are passed on) or uses something
  // that is not understood at run time. Bounded: at most 16 MiB of output, 1,000,000 evaluation steps, depth 200.
  Result<RenderedChat> render(std::span<const ChatMessage> messages, const Options& options) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tiercel
