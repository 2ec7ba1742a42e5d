// What one sequence may say next, guessed without a model: a draft, which one step of the model verifies.
//
// Two sources. What the cache knows to have followed this very prefix before (Lease::continuation) comes first: an
// answer that is asked for again is drafted whole. Else what followed the last tokens where they occurred in the
// sequence before (PromptLookup). How far drafts of each kind come true is learned from every token that is drawn,
// whether the draft was verified or not.
//
// Memory is allocated by the constructor only. Not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "engine/prompt_lookup.h"
#include "tiercel/kv_cache.h"
#include "tiercel/types.h"

namespace tiercel {

// How often the next token of a draft was drawn, where those before it were; the older, the less it counts.
class Acceptance {
 public:
  // Begins as if `accepted` of `tried` had been.
  Acceptance(double accepted, double tried, double kept) : accepted_(accepted), tried_(tried), kept_(kept) {}
  void learn(std::size_t accepted, bool then_failed);
  // `prior` counts as much as two tokens.
  double likelihood(double prior) const { return (accepted_ + 2 * prior) / (tried_ + 2); }
  double likelihood() const { return accepted_ / tried_; }

 private:
  double accepted_, tried_, kept_;
};

// Where drafts come from; n-grams by their lengths.
enum class DraftKind : std::uint8_t { Cache, Lookup4, Lookup3, Lookup2 };
inline constexpr std::size_t kDraftKinds = 4;

// Of all sequences together, where one has little of its own to go by.
class DraftRecord {
 public:
  Acceptance& of(DraftKind kind) { return of_[static_cast<std::size_t>(kind)]; }

 private:
  static constexpr double kKept = 0.99;
  std::array<Acceptance, kDraftKinds> of_{Acceptance(8, 10, kKept), Acceptance(6, 10, kKept), Acceptance(5, 10, kKept),
                                          Acceptance(3, 10, kKept)};
};

class Draft {
 public:
  // Of at most `most_drafted` tokens, for a sequence of at most `most_tokens`.
  Draft(std::size_t most_tokens, std::size_t most_drafted);

  // Learns from what was drawn since the last call, and guesses what follows `tokens`, the whole sequence, of which
  // `lease` has committed all but the last.
  void guess(std::span<const TokenId> tokens, const Lease& lease, DraftRecord& record);

  // The guess; empty: none.
  std::span<const TokenId> tokens() const { return std::span(guess_).first(size_); }
  // That its next token is drawn, where those before it were.
  double likelihood() const { return likelihood_; }

  // The last token of the sequence and the first `drafted` of the guess, one after the other, as a step takes them.
  std::span<const TokenId> chunk(std::size_t drafted) const { return std::span(chunk_).first(1 + drafted); }

 private:
  void learn(std::span<const TokenId> tokens, DraftRecord& record);
  bool guess_from_cache(std::span<const TokenId> tokens, const Lease& lease);

  PromptLookup lookup_;
  std::vector<TokenId> chunk_;  // and behind its first token, the guess
  std::span<TokenId> guess_;
  std::size_t size_ = 0;
  std::size_t guessed_at_ = 0;  // tokens of the sequence then
  DraftKind kind_ = DraftKind::Cache;
  double likelihood_ = 0;
  std::array<Acceptance, 2> own_;  // of the cache, of lookup

  // What the cache said last: how the sequence goes on from place `said_from_`.
  std::vector<TokenId> said_;
  std::size_t said_size_ = 0;
  std::size_t said_from_ = 0;
  std::size_t compared_ = 0;   // tokens of the sequence that were found to be as it said, or need not be
  std::size_t ask_again_ = 0;  // where it knew nothing: not before the sequence has so many tokens
};

}  // namespace tiercel
