#include "engine/draft.h"

#include <algorithm>

namespace tiercel {
namespace {

constexpr double kOwnKept = 0.8;         // of a sequence's record, with each guess
constexpr std::size_t kAsked = 64;       // tokens of the cache at a time
constexpr std::size_t kAskedEvery = 16;  // tokens, of a cache that knew nothing

std::size_t source_of(DraftKind kind) { return kind == DraftKind::Cache ? 0 : 1; }

}  // namespace

void Acceptance::learn(std::size_t accepted, bool then_failed) {
  accepted_ = kept_ * accepted_ + static_cast<double>(accepted);
  tried_ = kept_ * tried_ + static_cast<double>(accepted) + (then_failed ? 1 : 0);
}

Draft::Draft(std::size_t most_tokens, std::size_t most_drafted)
    : lookup_(most_tokens),
      chunk_(1 + most_drafted),
      guess_(std::span(chunk_).subspan(1)),
      own_{Acceptance(0, 0, kOwnKept), Acceptance(0, 0, kOwnKept)},
      said_(kAsked) {}

void Draft::guess(std::span<const TokenId> tokens, const Lease& lease, DraftRecord& record) {
  learn(tokens, record);
  lookup_.extend(tokens);
  chunk_[0] = tokens.back();
  size_ = 0;
  guessed_at_ = tokens.size();
  if (guess_from_cache(tokens, lease)) {
    kind_ = DraftKind::Cache;
  } else if (const PromptLookup::Match match = lookup_.find(tokens); match.length > 0) {
    kind_ = match.length == 4 ? DraftKind::Lookup4 : match.length == 3 ? DraftKind::Lookup3 : DraftKind::Lookup2;
    PromptLookup::copy(tokens, match, guess_);
    size_ = guess_.size();
  }
  likelihood_ = own_[source_of(kind_)].likelihood(record.of(kind_).likelihood());
}

void Draft::learn(std::span<const TokenId> tokens, DraftRecord& record) {
  if (size_ == 0 || tokens.size() <= guessed_at_) return;
  const auto drawn = tokens.subspan(guessed_at_);
  const auto guessed = this->tokens().first(std::min(size_, drawn.size()));
  const auto accepted = static_cast<std::size_t>(std::ranges::mismatch(guessed, drawn).in1 - guessed.begin());
  const bool failed = accepted < guessed.size();
  own_[source_of(kind_)].learn(accepted, failed);
  record.of(kind_).learn(accepted, failed);
}

bool Draft::guess_from_cache(std::span<const TokenId> tokens, const Lease& lease) {
  const auto holds = [&] {
    for (; compared_ < tokens.size() && compared_ < said_from_ + said_size_; ++compared_) {
      if (tokens[compared_] != said_[compared_ - said_from_]) return false;
    }
    return compared_ == tokens.size();
  };
  const bool held = said_size_ > 0 && holds();
  const std::size_t left = held ? said_from_ + said_size_ - tokens.size() : 0;
  // As much as was asked for: the cache may know more.
  const bool ends = held && said_size_ < said_.size();
  if (left < guess_.size() && !(ends && left > 0) && tokens.size() >= ask_again_) {
    said_from_ = compared_ = tokens.size();
    said_size_ = lease.continuation(tokens.subspan(lease.committed_tokens()), said_);
    if (said_size_ == 0) ask_again_ = tokens.size() + kAskedEvery;
  } else if (!held) {
    said_size_ = 0;
  }
  if (said_size_ == 0) return false;
  const auto rest = std::span(said_).first(said_size_).subspan(tokens.size() - said_from_);
  size_ = std::min(rest.size(), guess_.size());
  std::ranges::copy(rest.first(size_), guess_.begin());
  return size_ > 0;
}

}  // namespace tiercel
