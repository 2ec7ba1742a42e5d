// A model without weights whose answers depend on everything they should: the KV of a token is a digest of the token,
// its position, the digests before it *as read back from the blocks*, and the arithmetic it was computed with. The next
// token follows from the last digest. So a wrong block, a stale block, a wrong position, a missed copy or a hit on a
// block of other arithmetic changes the text, and `expected_output` says what the text must be.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "model/model_runner.h"
#include "text/tokenizer.h"
#include "tiercel/kv_cache.h"

namespace tiercel {

inline constexpr std::uint32_t kFakeVocabulary = 258;  // the bytes, then two control tokens
inline constexpr TokenId kFakeEnd = 256;

// Every byte is a token, whose id is the byte's value.
inline Tokenizer make_byte_tokenizer() {
  Vocabulary vocabulary;
  int next_stand_in = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int code = shown ? byte : next_stand_in++;
    std::string text;
    if (code < 0x80) {
      text = static_cast<char>(code);
    } else {
      text = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    }
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(1);
  }
  for (const char* control : {"<|end|>", "<|start|>"}) {
    vocabulary.tokens.push_back(control);
    vocabulary.types.push_back(3);
  }
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.end_token = kFakeEnd;
  return Tokenizer::make(std::move(vocabulary)).value();
}

class FakeModel final : public ModelRunner {
 public:
  explicit FakeModel(std::size_t max_logit_rows, bool arithmetic_matters = false)
      : arithmetic_matters_(arithmetic_matters), max_logit_rows_(max_logit_rows) {
    shape_.vocabulary = kFakeVocabulary;
    shape_.context_tokens = 4096;
    logits_.reserve(max_logit_rows * kFakeVocabulary);
  }

  static KvLayout layout() {
    return {.layers = 1, .kv_heads = 1, .head_dim = 2, .block_tokens = 8, .dtype = DType::F32};
  }

  static std::uint64_t digest_of(std::uint64_t before, TokenId token, std::size_t position, Arithmetic arithmetic) {
    std::uint64_t h = before ^ (static_cast<std::uint64_t>(token) * 0x9e3779b97f4a7c15u) ^ (position << 40) ^
                      (static_cast<std::uint64_t>(arithmetic) << 60);
    h = (h ^ (h >> 31)) * 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 29);
  }
  // Mostly letters; the end token after about 60.
  static TokenId next_of(std::uint64_t digest) {
    return digest % 61 == 0 ? kFakeEnd : static_cast<TokenId>('a' + digest % 26);
  }

  // The greedy output of `prompt`, computed without any engine. `boundary`: tokens before it count as prefill
  // arithmetic.
  static std::vector<TokenId> expected_output(std::vector<TokenId> tokens, std::size_t max_tokens,
                                              std::size_t boundary = 0, bool deterministic = false) {
    std::vector<TokenId> output;
    std::uint64_t digest = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const Arithmetic arithmetic = !deterministic ? Arithmetic::Any
                                    : i < boundary ? Arithmetic::Prefill
                                                   : Arithmetic::Decode;
      digest = digest_of(digest, tokens[i], i, arithmetic);
      if (i + 1 < tokens.size()) continue;
      const TokenId next = next_of(digest);
      if (output.size() == max_tokens || next == kFakeEnd) break;
      output.push_back(next);
      if (output.size() < max_tokens) tokens.push_back(next);
    }
    return output;
  }

  const ModelShape& shape() const override { return shape_; }
  const Fingerprint& fingerprint() const override { return fingerprint_; }
  ModelMemory memory() const override { return {}; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return {}; }
  std::size_t max_logit_rows() const override { return max_logit_rows_; }

  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    ++steps;
    if (before_step) before_step();
    for (const SequenceChunk& chunk : chunks) {
      tokens_in_all += chunk.tokens.size();
      std::this_thread::sleep_for(token_time * chunk.tokens.size());
    }
    if (fail_next_step.exchange(false) || fails) return Status::internal("planted failure");
    logits_.clear();
    std::size_t tokens = 0;
    for (const SequenceChunk& chunk : chunks) {
      tokens += chunk.tokens.size();
      const auto place = [&](std::size_t position) {
        return arena + chunk.block_table[position / 8] * layout().block_bytes() + position % 8 * sizeof(std::uint64_t);
      };
      std::uint64_t digest = 0;
      if (chunk.first_position > 0) std::memcpy(&digest, place(chunk.first_position - 1), sizeof digest);
      for (std::size_t i = 0; i < chunk.tokens.size(); ++i) {
        const std::size_t position = chunk.first_position + i;
        digest = digest_of(digest, chunk.tokens[i], position,
                           arithmetic_matters_ && !chunk.any_attention ? chunk.arithmetic : Arithmetic::Any);
        std::memcpy(place(position), &digest, sizeof digest);
        if (chunk.logits == Logits::All || (chunk.logits == Logits::Last && i + 1 == chunk.tokens.size())) {
          logits_.resize(logits_.size() + kFakeVocabulary, 0.0f);
          logits_[logits_.size() - kFakeVocabulary + static_cast<std::size_t>(next_of(digest))] = 10.0f;
        }
      }
    }
    most_tokens_in_step = std::max(most_tokens_in_step.load(), tokens);
    most_chunks_in_step = std::max(most_chunks_in_step.load(), chunks.size());
    return std::span<float>(logits_);
  }

  std::chrono::microseconds token_time{0};  // that computing takes; set before the first step
  std::function<void()> before_step = {};   // may hang; set before the first step
  std::atomic<bool> fail_next_step = false, fails = false;
  std::atomic<std::size_t> steps = 0, tokens_in_all = 0, most_tokens_in_step = 0, most_chunks_in_step = 0;

 private:
  bool arithmetic_matters_;
  std::size_t max_logit_rows_;
  ModelShape shape_;
  Fingerprint fingerprint_;
  std::vector<float> logits_;
};

}  // namespace tiercel
