#include "text/chat_template.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace tiercel {
namespace {

std::tm read_local_time() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm time{};
  localtime_r(&now, &time);
  return time;
}

// A Status message is one line.
std::string on_one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

Status to_status(const jinja::Error& error) {
  if (error.is_refusal) {
    return Status::invalid_argument("the chat template refuses the messages: " + on_one_line(error.message));
  }
  const std::string where = error.line > 0 ? ", line " + std::to_string(error.line) : "";
  return Status::invalid_argument("chat template" + where + ": " + on_one_line(error.message));
}

jinja::Value to_value(std::span<const ChatMessage> messages, jinja::Context& context) {
  std::vector<jinja::Value> items;
  for (const ChatMessage& message : messages) {
    items.push_back(jinja::make_mapping(
        {{jinja::make_trusted("role"), jinja::make_text(jinja::untrusted_text(message.role))},
         {jinja::make_trusted("content"), jinja::make_text(jinja::untrusted_text(message.content))}},
        context));
  }
  return jinja::make_sequence(std::move(items), jinja::Sequence::Kind::List, context);
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  try {
    return ChatTemplate(std::make_unique<Impl>(Impl{jinja::parse_template(source)}));
  } catch (const jinja::Error& error) {
    return to_status(error);
  }
}

Result<RenderedChat> ChatTemplate::render(std::span<const ChatMessage> messages, const Options& options) const {
  try {
    jinja::Context context;
    jinja::Variables variables;
    variables["messages"] = to_value(messages, context);
    variables["add_generation_prompt"] = options.add_generation_prompt;
    variables["bos_token"] = jinja::make_trusted(options.begin_text);
    variables["eos_token"] = jinja::make_trusted(options.end_text);
    // transformers gives these to every template; a conversation here has neither.
    variables["tools"] = jinja::None{};
    variables["documents"] = jinja::None{};
    const auto local_time = [&options] { return options.local_time ? *options.local_time : read_local_time(); };
    jinja::Text text = jinja::interpret(impl_->body, std::move(variables), local_time, context);
    return RenderedChat{std::move(text.bytes), std::move(text.trusted)};
  } catch (const jinja::Error& error) {
    return to_status(error);
  }
}

}  // namespace tiercel
