#include "engine/request_check.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/sampler.h"
#include "engine/stats_recorder.h"

namespace tiercel {
namespace {

Result<std::vector<TokenId>> prompt_of(const Request& request, const RequestContext& context) {
  if (!request.tokens.empty()) {
    for (std::size_t i = 0; i < request.tokens.size(); ++i) {
      const TokenId token = request.tokens[i];
      if (token < 0 || static_cast<std::size_t>(token) >= context.vocabulary) {
        return Status::invalid_argument(
            fmt::format("tokens[{}] is {}; the vocabulary is 0 to {}", i, token, context.vocabulary - 1));
      }
    }
    return request.tokens;
  }
  if (request.messages.empty()) return context.tokenizer.encode(request.text, request.parse_special_tokens);
  auto chat = render_chat(request.messages, context);
  if (!chat.ok()) return chat.status();
  if (request.parse_special_tokens) std::ranges::fill(chat->trusted, '\1');
  return context.tokenizer.encode(chat->text, std::string_view(chat->trusted));
}

constexpr std::uint32_t kMostChoices = 64;

Status check_choices(const Request& request) {
  const std::uint32_t drawn = std::max(request.n, request.best_of);
  if (request.n < 1 || drawn > kMostChoices) {
    return Status::invalid_argument(
        fmt::format("n is {} and best_of {}; give 1 to {}", request.n, request.best_of, kMostChoices));
  }
  if (request.best_of > 0 && request.best_of < request.n) {
    return Status::invalid_argument(fmt::format("best_of is {}, less than n, which is {}", request.best_of, request.n));
  }
  if (drawn == 1) return {};
  if (request.sampling.temperature == 0) {
    return Status::invalid_argument(
        fmt::format("{} choices are asked for, but temperature is 0, so that all would be equal; raise it", drawn));
  }
  if (request.max_tokens == 0 || request.prompt_logprobs) {
    return Status::invalid_argument("several choices go neither with max_tokens 0 nor with prompt_logprobs; ask twice");
  }
  return {};
}

}  // namespace

Result<std::vector<TokenId>> check_request(const Request& request, const RequestContext& context) {
  const int sources = !request.text.empty() + !request.messages.empty() + !request.tokens.empty();
  if (sources == 0) return Status::invalid_argument("the prompt is empty; set one of text, messages or tokens");
  if (sources > 1)
    return Status::invalid_argument("the prompt is given more than once; set only one of text, messages or tokens");
  TIERCEL_RETURN_IF_ERROR(validate(request.sampling, context.vocabulary));
  for (std::size_t i = 0; i < request.stop.size(); ++i) {
    if (request.stop[i].empty()) return Status::invalid_argument(fmt::format("stop[{}] is empty; leave it out", i));
  }
  if (request.endpoint.size() > EndpointLabels::kMostBytes) {
    return Status::invalid_argument(
        fmt::format("endpoint has {} bytes; give at most {}", request.endpoint.size(), EndpointLabels::kMostBytes));
  }
  TIERCEL_RETURN_IF_ERROR(check_choices(request));
  auto prompt = prompt_of(request, context);
  if (!prompt.ok()) return prompt;
  if (prompt->empty()) return Status::invalid_argument("the prompt has no tokens; give it some text");
  const std::size_t needed = prompt->size() + (request.max_tokens > 0 ? 1 : 0);
  if (needed > context.context_tokens) {
    return Status::invalid_argument(
        fmt::format("the prompt has {} tokens, and {} for output must fit too, but the context holds {}; shorten the "
                    "prompt, or raise "
                    "context_tokens if the model allows",
                    prompt->size(), needed - prompt->size(), context.context_tokens));
  }
  return prompt;
}

Result<RenderedChat> render_chat(std::span<const ChatMessage> messages, const RequestContext& context) {
  if (!context.chat_template) {
    return Status::invalid_argument("the model has no chat template; give the prompt as text or tokens");
  }
  return context.chat_template->render(
      messages, {.begin_text = context.tokenizer.begin_text(), .end_text = context.tokenizer.end_text()});
}

}  // namespace tiercel
