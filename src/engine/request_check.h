// From a Request to prompt tokens, or the Status that says what is wrong with it.
#pragma once

#include <optional>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "tiercel/request.h"

namespace tiercel {

// What a request is held against.
struct RequestContext {
  const Tokenizer& tokenizer;
  const std::optional<ChatTemplate>& chat_template;
  std::size_t vocabulary = 0;
  std::size_t context_tokens = 0;
};

// InvalidArgument as promised by Engine::process_request. On success at least one token, within the context.
Result<std::vector<TokenId>> check_request(const Request& request, const RequestContext& context);

// The chat prompt of `messages`, every byte marked as the template's or a message's.
Result<RenderedChat> render_chat(std::span<const ChatMessage> messages, const RequestContext& context);

}  // namespace tiercel
