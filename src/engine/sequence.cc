#include "engine/sequence.h"

namespace tiercel {
namespace {

constexpr std::size_t kUsualTokenBytes = 6;
// Between the seeds of a request's choices; the first has the request's own.
constexpr std::uint64_t kSeedStride = 0x9e3779b97f4a7c15u;

}  // namespace

void Sequence::start(Clock::time_point now, std::size_t vocabulary) {
  started = now;
  sampler.emplace(request.sampling, vocabulary);
  for (const TokenId token : tokens) sampler->observe(token);
  tokens.reserve(most_tokens);
  response.tokens.reserve(most_tokens - prompt_tokens);
  response.logprobs.reserve(most_tokens - prompt_tokens);
  response.text.reserve(kUsualTokenBytes * (most_tokens - prompt_tokens));
}

void Sequence::set_times(Clock::time_point arrived) {
  arrival = arrived;
  constexpr std::uint64_t kForever_ms = 1'000ull * 3600 * 24 * 365;
  if (request.timeout_ms > 0) {
    deadline = arrival + std::chrono::milliseconds(std::min(request.timeout_ms, kForever_ms));
  }
  if (request.deadline) deadline = std::min(deadline, *request.deadline);
}

std::vector<std::unique_ptr<Sequence>> make_sequences(Request request, std::vector<TokenId> prompt,
                                                      std::size_t context_tokens, Sequence::Clock::time_point arrival) {
  const std::uint32_t drawn = std::max(request.n, request.best_of);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (std::uint32_t choice = 0; choice < drawn; ++choice) {
    const bool last = choice + 1 == drawn;
    sequences.push_back(std::make_unique<Sequence>(last ? std::move(request) : request,
                                                   last ? std::move(prompt) : prompt, context_tokens));
    Sequence& sequence = *sequences.back();
    sequence.choice = choice;
    sequence.request.sampling.seed += choice * kSeedStride;
    sequence.set_times(arrival);
    if (drawn == 1) continue;
    sequence.promise = sequences.front()->promise;
    sequence.group = choice == 0 ? std::make_shared<ChoiceGroup>() : sequences.front()->group;
  }
  if (drawn > 1) {
    ChoiceGroup& group = *sequences.front()->group;
    group.n = sequences.front()->request.n;
    group.unended = drawn;
    group.ended.resize(drawn);
  }
  return sequences;
}

}  // namespace tiercel
