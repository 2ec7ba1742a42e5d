#include "engine/sampler.h"

#include <limits>

#include <fmt/format.h>

namespace tiercel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

}  // namespace

Sampler::Sampler(const SamplingOptions& options, std::size_t vocabulary)
    : options_(options),
      draw_(options.temperature > 0 && (options.top_k > 0 || options.top_p < 1.0f) ? vocabulary : 0),
      key_(mix(options.seed + kGolden)) {
  unbiased_.resize(options_.logit_bias.size());
  if (options_.repetition_penalty != 1.0f) {
    seen_.resize(vocabulary);
    seen_tokens_.reserve(vocabulary);
  }
  if (options_.top_k >= vocabulary) options_.top_k = 0;
}

void Sampler::observe(TokenId token) {
  const auto index = static_cast<std::size_t>(token);
  if (token < 0 || index >= seen_.size() || seen_[index]) return;
  seen_[index] = true;
  seen_tokens_.push_back(token);
}

bool Sampler::keeps_logits() const { return options_.temperature == 0 && can_draw_elsewhere(); }

std::uint64_t Sampler::random_of(std::uint64_t draw) const { return mix(key_ + draw * kGolden); }

kernels::SamplingRow Sampler::next_draw(std::size_t ahead) const {
  return {.temperature = options_.temperature,
          .top_p = options_.top_p,
          .min_p = options_.min_p,
          .top_k = options_.top_k,
          .random = random_of(draws_ + 1 + ahead)};
}

TokenId Sampler::sample(std::span<float> logits) {
  apply_bias(logits);
  apply_repetition_penalty(logits);
  kernels::SamplingRow how = next_draw(0);
  drew_elsewhere();
  if (!unbiased_.empty() && kernels::largest_logit(logits) == -kInfinity) {
    take_back_bias(logits);
    how.temperature = 0;
  }
  return draw_.draw(how, logits);
}

void Sampler::apply_bias(std::span<float> logits) {
  for (std::size_t i = 0; i < unbiased_.size(); ++i) {
    const LogitBias& bias = options_.logit_bias[i];
    float& logit = logits[static_cast<std::size_t>(bias.token)];
    unbiased_[i] = logit;
    logit += bias.bias;
  }
}

void Sampler::apply_repetition_penalty(std::span<float> logits) const {
  for (const TokenId token : seen_tokens_) {
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

void Sampler::take_back_bias(std::span<float> logits) const {
  // Backwards, since a token may be biased more than once.
  for (std::size_t i = unbiased_.size(); i-- > 0;) {
    logits[static_cast<std::size_t>(options_.logit_bias[i].token)] = unbiased_[i];
  }
}

Status validate(const SamplingOptions& options, std::size_t vocabulary) {
  // Written so that NaN fails.
  const auto refuse = [](std::string_view field, float value, std::string_view range) {
    return Status::invalid_argument(fmt::format("{} is {}; give {}", field, value, range));
  };
  if (!(options.temperature >= 0 && options.temperature <= kLargest)) {
    return refuse("temperature", options.temperature, "a finite number of at least 0");
  }
  if (!(options.top_p > 0 && options.top_p <= 1))
    return refuse("top_p", options.top_p, "a number above 0 and at most 1");
  if (!(options.min_p >= 0 && options.min_p < 1))
    return refuse("min_p", options.min_p, "a number of at least 0 and below 1");
  if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 10)) {
    return refuse("repetition_penalty", options.repetition_penalty, "a number above 0 and at most 10; 1 is off");
  }
  for (std::size_t i = 0; i < options.logit_bias.size(); ++i) {
    const LogitBias& bias = options.logit_bias[i];
    if (bias.token < 0 || static_cast<std::size_t>(bias.token) >= vocabulary) {
      return Status::invalid_argument(
          fmt::format("logit_bias[{}].token is {}; the vocabulary is 0 to {}", i, bias.token, vocabulary - 1));
    }
    if (!(bias.bias <= kLargest)) {
      return refuse(fmt::format("logit_bias[{}].bias", i), bias.bias,
                    "a finite number, or -infinity to forbid the token");
    }
  }
  return {};
}

}  // namespace tiercel
