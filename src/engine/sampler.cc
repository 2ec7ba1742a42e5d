#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "base/vector_clones.h"

namespace tiercel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLog2E = 1.44269504f;
// Loops over the vocabulary keep this many independent values, so that they become vector code without any change of
// result.
constexpr std::size_t kLanes = 16;

// 2^t for t at most 0, with a relative error of 2e-7; 0 below -126 and for NaN. Plain arithmetic and free of branches,
// so that every machine gives the same bits and loops over it become vector code.
inline float exp2_of_negative(float t) {
  constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
  const float rounded = t + kRounding;
  const float f = t - (rounded - kRounding);
  // Least relative error on [-0.5, 0.5] among polynomials of degree 5 that are 1 at 0.
  float p = 0.00132647273f;
  p = p * f + 0.00967151299f;
  p = p * f + 0.0555073358f;
  p = p * f + 0.240222424f;
  p = p * f + 0.693147004f;
  p = p * f + 1.0f;
  const std::uint32_t scaled = std::bit_cast<std::uint32_t>(p) + (std::bit_cast<std::uint32_t>(rounded) << 23);
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(t >= -126.0f);  // a conditional would become a branch
  return std::bit_cast<float>(scaled & mask);
}

// -infinity where there are only NaNs.
TIERCEL_VECTOR_CLONES float largest(std::span<const float> values) {
  std::array<float, kLanes> lanes;
  lanes.fill(-kInfinity);
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (; i < values.size(); ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::ranges::max_element(lanes);
}

// Of the first equal one, which is there.
TIERCEL_VECTOR_CLONES TokenId index_of(std::span<const float> values, float value) {
  constexpr std::size_t kChunk = 16 * kLanes;
  std::size_t first = 0;
  for (; first + kChunk <= values.size(); first += kChunk) {
    std::uint32_t equal = 0;
    for (std::size_t i = 0; i < kChunk; ++i) equal |= static_cast<std::uint32_t>(values[first + i] == value);
    if (equal != 0) break;
  }
  while (values[first] != value) ++first;
  return static_cast<TokenId>(first);
}

// Sum of exp(logit - maximum).
TIERCEL_VECTOR_CLONES double sum_of_exponentials(std::span<const float> logits, float maximum) {
  constexpr std::size_t kChunk = 64 * kLanes;  // short enough that float sums keep their precision
  std::array<float, kChunk> terms;
  double sum = 0;
  while (!logits.empty()) {
    const std::size_t size = std::min(kChunk, logits.size());
    for (std::size_t i = 0; i < size; ++i) terms[i] = exp2_of_negative((logits[i] - maximum) * kLog2E);
    std::fill(terms.begin() + static_cast<std::ptrdiff_t>(size), terms.end(), 0.0f);
    std::array<float, kLanes> lanes{};
    for (std::size_t i = 0; i < kChunk; i += kLanes) {
      for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += terms[i + j];
    }
    for (const float lane : lanes) sum += static_cast<double>(lane);
    logits = logits.subspan(size);
  }
  return sum;
}

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

// One weight, 0 to 1 relative to the likeliest token's, as an integer.
std::uint64_t units(float weight) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(weight * 0x1p40f)); }

}  // namespace

// Unnormalised probabilities after the temperature; the likeliest token's is 1.
class Sampler::Weights {
 public:
  Weights(float maximum, float temperature) : maximum_(maximum), scale_(std::min(kLog2E / temperature, kLargest)) {}

  float operator()(float logit) const { return exp2_of_negative((logit - maximum_) * scale_); }
  std::uint64_t units_of(float logit) const { return units((*this)(logit)); }
  // The logit whose probability is e^-depth of the likeliest's, as a start to search from.
  float at_depth(float depth) const { return std::max(maximum_ - depth * kLog2E / scale_, -kLargest); }

 private:
  float maximum_;
  float scale_;
};

bool Sampler::ranks_before(const Candidate& left, const Candidate& right) {
  return left.logit > right.logit || (left.logit == right.logit && left.token < right.token);
}

Sampler::Sampler(const SamplingOptions& options, std::size_t vocabulary)
    : options_(options), key_(mix(options.seed + kGolden)) {
  unbiased_.resize(options_.logit_bias.size());
  if (options_.repetition_penalty != 1.0f) {
    seen_.resize(vocabulary);
    seen_tokens_.reserve(vocabulary);
  }
  if (options_.top_k >= vocabulary) options_.top_k = 0;
  if (options_.temperature > 0 && (options_.top_k > 0 || options_.top_p < 1.0f)) candidates_.resize(vocabulary);
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
  float maximum = largest(logits);
  const bool greedy = options_.temperature == 0;
  const std::uint64_t random = greedy ? 0 : random_of(++draws_);
  if (maximum == -kInfinity) return take_first_without_bias(logits);
  if (greedy) return index_of(logits, maximum);
  if (maximum == kInfinity) {
    for (float& logit : logits) logit = logit == kInfinity ? 0.0f : -kInfinity;
    maximum = 0;
  }

  const Weights weights(maximum, options_.temperature);
  const Candidate last = last_kept(logits, weights);
  const auto size = static_cast<TokenId>(logits.size());
  for (TokenId i = 0; i < size; ++i) {
    const float logit = logits[i];
    const bool kept = (logit > last.logit) | ((logit == last.logit) & (i <= last.token));
    logits[i] = kept ? logit : -kInfinity;
  }
  for (float& logit : logits) logit = weights(logit);
  const float min_p = options_.min_p;
  const auto kept_units = [min_p](float weight) { return weight >= min_p ? units(weight) : 0; };
  std::uint64_t total = 0;
  for (const float weight : logits) total += kept_units(weight);

  // random / 2^64 of the total; the likeliest token is always kept, so there is one.
  auto left = static_cast<std::uint64_t>((static_cast<unsigned __int128>(random) * total) >> 64);
  for (TokenId i = 0; i < size; ++i) {
    const std::uint64_t own = kept_units(logits[i]);
    if (left < own) return i;
    left -= own;
  }
  assert(false && "the units do not sum to their total");
  return 0;
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

TokenId Sampler::take_first_without_bias(std::span<float> logits) const {
  // Backwards, since a token may be biased more than once.
  for (std::size_t i = unbiased_.size(); i-- > 0;) {
    logits[static_cast<std::size_t>(options_.logit_bias[i].token)] = unbiased_[i];
  }
  const float maximum = largest(logits);
  return maximum == -kInfinity ? 0 : index_of(logits, maximum);
}

std::span<Sampler::Candidate> Sampler::candidates_above(std::span<const float> logits, float floor) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates_[count] = {logits[i], static_cast<TokenId>(i)};
    count += logits[i] >= floor ? 1 : 0;
  }
  return std::span(candidates_).first(count);
}

// The last token of the ranking that top-k and top-p keep; one that ranks after all allowed tokens where both are off.
Sampler::Candidate Sampler::last_kept(std::span<const float> logits, const Weights& weights) {
  const std::size_t top_k = options_.top_k;
  const bool by_mass = options_.top_p < 1.0f;
  if (top_k == 0 && !by_mass) return {-kInfinity, -1};

  const auto mass_of = [&](std::span<const Candidate> candidates) {
    std::uint64_t sum = 0;
    for (const Candidate& candidate : candidates) sum += weights.units_of(candidate.logit);
    return sum;
  };
  std::uint64_t mass = 0;
  if (top_k == 0) {
    for (const float logit : logits) mass += weights.units_of(logit);
  }

  // What is kept is mostly a few tokens near the likeliest: look there first, then further off. Beyond a depth of 28 no
  // probability is left, but top-k may still ask for more tokens.
  for (const float floor :
       {weights.at_depth(4), weights.at_depth(8), weights.at_depth(14), weights.at_depth(30), -kLargest}) {
    const bool everywhere = floor == -kLargest;
    std::span<Candidate> kept = candidates_above(logits, floor);
    if (top_k > 0) {
      if (kept.size() < top_k && !everywhere) continue;
      if (kept.size() > top_k) {
        std::ranges::nth_element(kept, kept.begin() + static_cast<std::ptrdiff_t>(top_k), ranks_before);
        kept = kept.first(top_k);
      }
      if (by_mass) mass = mass_of(kept);
    }
    if (by_mass) {
      auto wanted =
          static_cast<std::uint64_t>(std::ceil(static_cast<double>(options_.top_p) * static_cast<double>(mass)));
      wanted = std::min(wanted, mass);
      if (top_k == 0 && mass_of(kept) < wanted && !everywhere) continue;
      // Halve what is undecided by rank; `wanted` is what the undecided part must contribute.
      std::size_t begin = 0;
      std::size_t end = kept.size();
      while (end - begin > 1) {
        const std::size_t middle = begin + (end - begin) / 2;
        const auto at = [&](std::size_t i) { return kept.begin() + static_cast<std::ptrdiff_t>(i); };
        std::ranges::nth_element(at(begin), at(middle), at(end), ranks_before);
        const std::uint64_t first_half = mass_of(kept.subspan(begin, middle - begin));
        if (first_half >= wanted) {
          end = middle;
        } else {
          wanted -= first_half;
          begin = middle;
        }
      }
      kept = kept.first(end);
    }
    return *std::ranges::max_element(kept, ranks_before);
  }
  return {-kInfinity, -1};
}

float logprob_of(std::span<const float> logits, TokenId token) {
  assert(token >= 0 && static_cast<std::size_t>(token) < logits.size());
  const float logit = logits[static_cast<std::size_t>(token)];
  const float maximum = largest(logits);
  if (std::isnan(logit) || logit == -kInfinity) return -kInfinity;
  if (maximum == kInfinity) {
    return logit == kInfinity ? -std::log(static_cast<float>(std::ranges::count(logits, kInfinity))) : -kInfinity;
  }
  const double distance = static_cast<double>(logit) - static_cast<double>(maximum);
  return static_cast<float>(distance - std::log(sum_of_exponentials(logits, maximum)));
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
