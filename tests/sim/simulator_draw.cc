// What a history draws at random.
#include <algorithm>

#include "tests/sim/simulator.h"

namespace tiercel::sim {

Shape Simulator::draw_shape(const Configuration& configuration, std::mt19937_64& random) {
  Shape shape{.capacity_blocks = 3 + random() % 18, .block_tokens = 2 + random() % 4};
  shape.prefix_reuse = random() % 16 != 0;
  const auto has = [&](bool feature) { return feature && random() % 3 != 0; };
  if (has(configuration.windows)) {
    shape.capacity_blocks += random() % 20;
    for (std::size_t i = 0; i < 1 + random() % 2; ++i) {
      shape.windows.push_back(random() % 4 == 0 ? 2 : 2 + random() % (3 * shape.block_tokens));
    }
  }
  if (has(configuration.quotas)) {
    shape.quotas = true;
    shape.default_quota_blocks = random() % 4 == 0 ? 0 : 1 + random() % shape.capacity_blocks;
  }
  if (configuration.tiers) {
    shape.prefix_reuse = shape.tiers = true;
    shape.capacity_blocks = 4 + random() % 8;
  }
  return shape;
}

// A sequence that often repeats the start of one seen before.
Text Simulator::draw_text(std::size_t most) {
  Text text;
  if (!seen_.empty() && !one_in(4)) {
    text = seen_[below(seen_.size())];
    if (!one_in(3)) text.resize(below(text.size() + 1));
  }
  const std::size_t extra = one_in(4) ? 0 : below(2 * model_.shape.block_tokens + 1);
  for (std::size_t i = 0; i < extra; ++i) text.push_back(static_cast<char>('a' + below(alphabet_)));
  if (text.size() > most) text.resize(most);
  return text;
}

// Likely to be cached.
Text Simulator::draw_known_text() { return seen_.empty() || one_in(3) ? draw_text(1000) : seen_[below(seen_.size())]; }

std::size_t Simulator::draw_scope() { return one_in(3) ? below(kScopes) : 0; }

Retention Simulator::draw_retention() {
  if (!has_lifetimes_) return {};
  return {.priority = static_cast<RetentionPriority>(below(3)), .ttl_ms = draw_time_to_live(60)};
}

// In milliseconds; 0 for ever.
std::uint64_t Simulator::draw_time_to_live(std::uint64_t most) {
  if (one_in(2)) return 0;
  return one_in(16) ? UINT64_MAX - below(2) : 1 + below(most);
}

AdmitOptions Simulator::draw_options(std::size_t scope, const Text& prompt) {
  AdmitOptions options{.max_tokens = prompt.size() + below(2 * model_.shape.block_tokens),
                       .scope = scope_of(scope),
                       .partial_blocks = !one_in(4),
                       .retention = draw_retention()};
  if (one_in(3)) options.max_matched_tokens = prompt.empty() ? 0 : below(prompt.size());
  if (one_in(8)) options.max_shared_tokens = below(prompt.size() + 1);
  return options;
}

void Simulator::remember(const Text& text) {
  if (seen_.size() < 8) seen_.push_back(text);
  seen_[below(seen_.size())] = text;
}

}  // namespace tiercel::sim
