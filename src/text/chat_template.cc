#include "text/chat_template.h"

#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace tiercel {

struct ChatTemplate::Impl {
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  auto block = jinja::parse(source);
  if (!block.ok()) return block.status();
  return ChatTemplate(std::make_unique<Impl>(Impl{std::move(*block)}));
}

Result<RenderedChat> ChatTemplate::render(std::span<const ChatMessage> messages, const Options& options) const {
  using jinja::Text;
  using jinja::Value;
  jinja::List list;
  for (const ChatMessage& message : messages) {
    list.push_back(Value::dict({{"role", Value::text(Text::of(message.role, false))},
                                {"content", Value::text(Text::of(message.content, false))}}));
  }
  // What Hugging Face's apply_chat_template passes when there are no tools and no documents.
  auto text = jinja::render(impl_->block,
                            {{"messages", Value::list(std::move(list))},
                             {"tools", Value::None{}},
                             {"documents", Value::None{}},
                             {"add_generation_prompt", options.add_generation_prompt},
                             {"bos_token", Value::text(options.begin_text)},
                             {"eos_token", Value::text(options.end_text)}},
                            {});
  if (!text.ok()) return text.status();
  return RenderedChat{std::move(text->bytes), std::move(text->trusted)};
}

}  // namespace tiercel
