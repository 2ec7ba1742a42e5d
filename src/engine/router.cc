#include "engine/router.h"

#include <algorithm>
#include <limits>
#include <tuple>

namespace tiercel {
namespace {

// How much more a token counts that is computed than one that is waited for.
constexpr double kComputing = 1.5;
// A step's token of a stream, in tokens of prompts. Its weights are read for few rows, its KV for it alone.
constexpr double kStreamToken = 2;
// Balance: so many sequences more than the least loaded replica, of the places of a batch, and so many times as many.
constexpr double kMostMore = 0.25, kMostTimes = 1.5;
// Paces that differ by less do so by chance.
constexpr double kLeastSlowness = 2;

// Its pace against that of the fastest; 1 where they hardly differ.
double slowness(const ReplicaView& replica, std::span<const ReplicaView> all) {
  if (replica.pace_s == 0) return 1;
  double fastest_s = replica.pace_s;
  for (const ReplicaView& other : all) {
    if (other.pace_s > 0) fastest_s = std::min(fastest_s, other.pace_s);
  }
  const double times = replica.pace_s / fastest_s;
  return times < kLeastSlowness ? 1 : times;
}

}  // namespace

Router::Router(const RouterLimits& limits)
    : limits_(limits), replicas_(limits.replicas), prefixes_(limits.replicas, limits.most_keys) {}

Router::Decision Router::route(const RoutedPrompt& prompt, std::span<const ReplicaView> views) {
  const bool any_available = std::ranges::any_of(views, &ReplicaView::available);
  const auto is_out = [&](std::size_t i) { return any_available && !views[i].available; };
  std::size_t least = SIZE_MAX;
  for (std::size_t i = 0; i < replicas_.size(); ++i) {
    if (!is_out(i)) least = std::min(least, replicas_[i].sequences);
  }
  const double most =
      std::max(static_cast<double>(least) + std::max(1., kMostMore * static_cast<double>(limits_.places)),
               kMostTimes * static_cast<double>(least));
  using Rank = std::tuple<double, std::size_t, std::uint64_t>;
  Rank best_rank{std::numeric_limits<double>::infinity(), 0, 0};
  Decision best;
  for (std::size_t i = 0; i < replicas_.size(); ++i) {
    const Replica& replica = replicas_[i];
    if (is_out(i) || static_cast<double>(replica.sequences) > most) continue;
    const std::size_t routed = prefixes_.leading(i, prompt.keys) * limits_.block_tokens;
    // The last token is always computed: its logits are.
    const std::size_t known = prompt.reuses ? std::min(std::max(routed, views[i].cached_tokens), prompt.tokens - 1) : 0;
    const Rank rank{cost(replica, prompt, known) * slowness(views[i], views), replica.sequences, replica.given_tokens};
    if (rank >= best_rank) continue;
    best_rank = rank;
    best = {.replica = i, .expected_tokens = known};
  }
  best.ticket = ++last_ticket_;
  Replica& replica = replicas_[best.replica];
  const Routed routed{.replica = best.replica,
                      .priority = prompt.priority,
                      .prompt_tokens = prompt.tokens - best.expected_tokens,
                      .sequences = prompt.sequences,
                      .output_tokens = prompt.output_tokens};
  routed_.emplace(best.ticket, routed);
  Tally& to = tally(routed);
  to.prompt_tokens += routed.prompt_tokens;
  to.sequences += routed.sequences;
  to.output_tokens += routed.sequences * routed.output_tokens;
  replica.sequences += routed.sequences;
  replica.given_tokens += routed.prompt_tokens;
  if (prompt.reuses) prefixes_.add(best.ticket, best.replica, prompt.keys);
  return best;
}

double Router::cost(const Replica& replica, const RoutedPrompt& prompt, std::size_t known_tokens) const {
  Tally before;  // of those that do not rank behind it
  for (auto other = replica.by_priority.lower_bound(prompt.priority); other != replica.by_priority.end(); ++other) {
    before.prompt_tokens += other->second.prompt_tokens;
    before.sequences += other->second.sequences;
    before.output_tokens += other->second.output_tokens;
  }
  const auto own = static_cast<double>(prompt.tokens - known_tokens);
  const auto waiting = static_cast<double>(before.prompt_tokens);
  const auto step_tokens = static_cast<double>(limits_.step_tokens);
  const double steps = 1 + (waiting + own) / step_tokens;
  double work = waiting + kComputing * own + steps * static_cast<double>(replica.sequences) * kStreamToken;
  if (before.sequences + prompt.sequences > limits_.places && before.sequences > 0) {
    const auto ending = static_cast<double>(before.sequences + prompt.sequences - limits_.places);
    work += ending * static_cast<double>(before.output_tokens) / static_cast<double>(before.sequences) * kStreamToken;
  }
  return work;
}

Router::Tally& Router::tally(const Routed& routed) { return replicas_[routed.replica].by_priority[routed.priority]; }

void Router::set_prompt_left(Ticket ticket, std::size_t tokens) {
  const auto found = routed_.find(ticket);
  if (found == routed_.end()) return;
  Routed& routed = found->second;
  Tally& of = tally(routed);
  of.prompt_tokens = of.prompt_tokens - routed.prompt_tokens + tokens;
  routed.prompt_tokens = tokens;
  if (tokens == 0) prefixes_.remove(ticket);
}

void Router::end(Ticket ticket) {
  set_prompt_left(ticket, 0);
  const auto found = routed_.find(ticket);
  if (found == routed_.end()) return;
  const Routed routed = found->second;
  routed_.erase(found);
  Tally& of = tally(routed);
  of.sequences -= routed.sequences;
  of.output_tokens -= routed.sequences * routed.output_tokens;
  Replica& replica = replicas_[routed.replica];
  replica.sequences -= routed.sequences;
  if (of.sequences == 0) replica.by_priority.erase(routed.priority);
}

std::size_t Router::prompt_tokens(std::size_t replica) const {
  std::size_t tokens = 0;
  for (const auto& [priority, of] : replicas_[replica].by_priority) tokens += of.prompt_tokens;
  return tokens;
}

}  // namespace tiercel
