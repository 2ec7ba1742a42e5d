#include "engine/choice_group.h"

#include <algorithm>
#include <functional>
#include <span>
#include <utility>

namespace tiercel {

bool ChoiceGroup::collect(std::uint32_t choice, Response response, const Status& status) {
  if (choice == 0) forked = true;  // or it never will be
  if (!status.ok() && failure.ok()) failure = status;
  double sum = 0;
  for (const float logprob : response.logprobs) sum += static_cast<double>(logprob);
  const double count = static_cast<double>(std::max<std::size_t>(1, response.logprobs.size()));
  ended[choice] = {.response = std::move(response), .mean_logprob = sum / count};
  return --unended == 0;
}

Response ChoiceGroup::answer() {
  Response answer = ended.front().response;
  double ttft_ms = 0, total_ms = 0;
  for (const Ended& one : ended) {
    ttft_ms = ttft_ms == 0 ? one.response.ttft_ms : std::min(ttft_ms, one.response.ttft_ms);
    total_ms = std::max(total_ms, one.response.total_ms);
  }
  answer.ttft_ms = ttft_ms;
  answer.total_ms = total_ms;
  if (ended.size() > n) std::ranges::stable_sort(ended, std::greater(), &Ended::mean_logprob);
  for (Ended& one : std::span(ended).first(n)) {
    answer.choices.push_back({.text = std::move(one.response.text),
                              .tokens = std::move(one.response.tokens),
                              .logprobs = std::move(one.response.logprobs),
                              .finish_reason = one.response.finish_reason});
  }
  const Choice& first = answer.choices.front();
  answer.text = first.text;
  answer.tokens = first.tokens;
  answer.logprobs = first.logprobs;
  answer.finish_reason = first.finish_reason;
  return answer;
}

}  // namespace tiercel
