// An inference server of one's own on tiercel::kv alone: own model runner, tiercel's cache of its KV.
//
// The "model" is a toy with one layer and one head: the KV of a token depends on the token and its position, and an
// answer is what attention over all KV gives. It counts the tokens it computes, so the cache's work can be seen: two
// chats with one system prompt compute it once, and the answers are those of a server without a cache.
#include <tiercel/kv_cache.h>

#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

namespace {

using tiercel::TokenId;

constexpr tiercel::KvLayout kLayout{
    .layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 16, .dtype = tiercel::DType::F32};

class ToyRunner {
 public:
  explicit ToyRunner(tiercel::KvCache& cache) : cache_(cache) {}

  // Answers `prompt` with `count` tokens.
  tiercel::Result<std::vector<TokenId>> generate(std::vector<TokenId> sequence, std::size_t count) {
    // The last prompt token is always computed: the first output token comes from it.
    auto lease =
        cache_.admit(sequence, {.max_tokens = sequence.size() + count, .max_matched_tokens = sequence.size() - 1});
    if (!lease.ok()) return lease.status();
    std::printf("  %zu of %zu prompt tokens found in the cache\n", lease->matched_tokens(), sequence.size());

    std::vector<TokenId> output;
    while (output.size() < count) {
      TIERCEL_RETURN_IF_ERROR(lease->grow(sequence.size()));
      const std::size_t first = lease->committed_tokens();
      for (std::size_t position = first; position < sequence.size(); ++position) {
        compute_kv(*lease, position, sequence[position]);
      }
      output.push_back(attend(*lease, sequence.size()));
      lease->commit(std::span(sequence).subspan(first));  // from here on others can find it
      sequence.push_back(output.back());
    }
    return output;
  }

  std::size_t computed_tokens() const { return computed_tokens_; }

 private:
  // The K or V vector of one position, where the layout puts it.
  float* vector_at(const tiercel::Lease& lease, std::size_t position, bool value) const {
    const tiercel::BlockId block = lease.block_table()[position / kLayout.block_tokens];
    auto* elements = reinterpret_cast<float*>(cache_.block(block));
    return elements + (value ? kLayout.value_offset() : 0) + (position % kLayout.block_tokens) * kLayout.head_dim;
  }

  void compute_kv(const tiercel::Lease& lease, std::size_t position, TokenId token) {
    float* key = vector_at(lease, position, false);
    float* value = vector_at(lease, position, true);
    for (std::uint32_t i = 0; i < kLayout.head_dim; ++i) {
      key[i] = std::sin(static_cast<float>(token * 7 + 3 * static_cast<int>(position)) + static_cast<float>(i));
      value[i] = std::cos(static_cast<float>(token * (static_cast<int>(i) + 1)));
    }
    ++computed_tokens_;
  }

  // The next token: attention of the last position over all of them.
  TokenId attend(const tiercel::Lease& lease, std::size_t tokens) const {
    const float* query = vector_at(lease, tokens - 1, false);
    float weight_sum = 0, mixed = 0;
    for (std::size_t position = 0; position < tokens; ++position) {
      const float* key = vector_at(lease, position, false);
      const float* value = vector_at(lease, position, true);
      float score = 0, content = 0;
      for (std::uint32_t i = 0; i < kLayout.head_dim; ++i) score += query[i] * key[i], content += value[i];
      const float weight = std::exp(score);
      weight_sum += weight;
      mixed += weight * content;
    }
    return static_cast<TokenId>(std::fabs(mixed / weight_sum) * 1000) % 500;
  }

  tiercel::KvCache& cache_;
  std::size_t computed_tokens_ = 0;
};

std::vector<TokenId> chat_prompt(TokenId topic) {
  std::vector<TokenId> prompt;
  for (TokenId i = 0; i < 100; ++i) prompt.push_back(i * i % 97);           // the system prompt that all chats share
  for (TokenId i = 0; i < 20; ++i) prompt.push_back(200 + topic * 20 + i);  // this user's question
  return prompt;
}

}  // namespace

int main() {
  auto cache = tiercel::KvCache::open({.capacity_bytes = std::size_t{1} << 20}, kLayout, {}).value();
  auto no_cache = tiercel::KvCache::open({.capacity_bytes = std::size_t{1} << 20}, kLayout, {}).value();
  ToyRunner server(cache), reference(no_cache);

  for (const TokenId topic : {0, 1, 0}) {
    std::printf("chat about topic %d\n", topic);
    auto answer = server.generate(chat_prompt(topic), 12);
    if (!answer.ok()) return std::printf("%s\n", answer.status().to_string().c_str()), 1;

    no_cache.invalidate_all();
    std::printf("  the same without a cache:\n");
    auto expected = reference.generate(chat_prompt(topic), 12);
    if (!expected.ok() || *answer != *expected) return std::puts("answers differ"), 1;
  }
  std::printf("computed %zu tokens with the cache, %zu without\n", server.computed_tokens(),
              reference.computed_tokens());
  return server.computed_tokens() < reference.computed_tokens() / 2 ? 0 : 1;
}
