#include "kernels/token_draw.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>

#include "base/vector_clones.h"

namespace tiercel::kernels {
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

// One weight, 0 to 1 relative to the likeliest token's, as an integer.
std::uint64_t units(float weight) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(weight * 0x1p40f)); }

}  // namespace

// Unnormalised probabilities after the temperature; the likeliest token's is 1.
class TokenDraw::Weights {
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

bool TokenDraw::ranks_before(const Candidate& left, const Candidate& right) {
  return left.logit > right.logit || (left.logit == right.logit && left.token < right.token);
}

TokenId TokenDraw::draw(const SamplingRow& how, std::span<float> logits) {
  float maximum = largest(logits);
  if (maximum == -kInfinity) return 0;
  if (how.temperature == 0) return index_of(logits, maximum);
  if (maximum == kInfinity) {
    for (float& logit : logits) logit = logit == kInfinity ? 0.0f : -kInfinity;
    maximum = 0;
  }

  const Weights weights(maximum, how.temperature);
  const Candidate last = last_kept(how, logits, weights);
  const auto size = static_cast<TokenId>(logits.size());
  for (TokenId i = 0; i < size; ++i) {
    const float logit = logits[i];
    const bool kept = (logit > last.logit) | ((logit == last.logit) & (i <= last.token));
    logits[i] = kept ? logit : -kInfinity;
  }
  for (float& logit : logits) logit = weights(logit);
  const float min_p = how.min_p;
  const auto kept_units = [min_p](float weight) { return weight >= min_p ? units(weight) : 0; };
  std::uint64_t total = 0;
  for (const float weight : logits) total += kept_units(weight);

  // random / 2^64 of the total; the likeliest token is always kept, so there is one.
  auto left = static_cast<std::uint64_t>((static_cast<unsigned __int128>(how.random) * total) >> 64);
  for (TokenId i = 0; i < size; ++i) {
    const std::uint64_t own = kept_units(logits[i]);
    if (left < own) return i;
    left -= own;
  }
  assert(false && "the units do not sum to their total");
  return 0;
}

std::span<TokenDraw::Candidate> TokenDraw::candidates_above(std::span<const float> logits, float floor) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates_[count] = {logits[i], static_cast<TokenId>(i)};
    count += logits[i] >= floor ? 1 : 0;
  }
  return std::span(candidates_).first(count);
}

// The last token of the ranking that top-k and top-p keep; one that ranks after all allowed tokens where both are off.
TokenDraw::Candidate TokenDraw::last_kept(const SamplingRow& how, std::span<const float> logits,
                                          const Weights& weights) {
  const std::size_t top_k = how.top_k;
  const bool by_mass = how.top_p < 1.0f;
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
      auto wanted = static_cast<std::uint64_t>(std::ceil(static_cast<double>(how.top_p) * static_cast<double>(mass)));
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

float largest_logit(std::span<const float> logits) { return largest(logits); }

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

}  // namespace tiercel::kernels
