// The step path allocates nothing per token: counted, by replacing the program's operator new.
#include <atomic>
#include <cstdlib>
#include <new>

#include <gtest/gtest.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "tests/engine/fake_model.h"
#include "tests/engine/stats_identities.h"

namespace {

std::atomic<std::uint64_t> allocations = 0;

void* allocate(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace tiercel {
namespace {

TEST(Allocations, NoneForATokenOfAStream) {
  constexpr std::size_t kSequences = 8;
  const Tokenizer tokenizer = make_byte_tokenizer();
  const std::optional<ChatTemplate> chat_template;
  FakeModel model(kSequences + 8);
  KvCache cache = KvCache::open({.capacity_bytes = 2000 * FakeModel::layout().block_bytes()}, FakeModel::layout(),
                                model.fingerprint())
                      .value();
  StatsRecorder stats;
  StepLoop loop({.limits = {.max_sequences = kSequences, .max_tokens = 64, .max_logit_rows = kSequences + 8},
                 .max_draft_tokens = 7,
                 .by_hand = true},
                model, cache, tokenizer, stats);
  std::size_t told = 0;
  std::vector<ResponseFuture> futures;
  const auto submit = [&](std::string text, std::uint32_t max_tokens) {
    Request request{.text = std::move(text),
                    .max_tokens = max_tokens,
                    .stop = {"never so"},
                    .ignore_end_of_text = true,
                    .endpoint = "chat"};
    request.sampling = {.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .repetition_penalty = 1.1f};
    request.on_token = [&](const TokenEvent& event) { told += event.text.size(); };
    auto prompt = check_request(request, {tokenizer, chat_template, kFakeVocabulary, 4096});
    auto choices = make_sequences(std::move(request), *std::move(prompt), 4096, Sequence::Clock::now());
    futures.emplace_back(choices.front()->promise);
    loop.submit(std::move(choices));
  };
  for (std::size_t i = 0; i < kSequences - 1; ++i) submit(fmt::format("sequence {}", i), 1500);
  submit(std::string(500, 'p'), 1);  // a prompt that is computed beside the streams, too
  for (int step = 0; step < 100; ++step) loop.run_one();
  ASSERT_EQ(model.most_chunks_in_step.load() >= kSequences - 1, true);
  const std::uint64_t before = allocations;
  const std::size_t told_before = told;
  for (int step = 0; step < 400; ++step) loop.run_one();
  EXPECT_EQ(allocations - before, 0u);
  EXPECT_GT(stats.snapshot().drafted_tokens, 0u);
  EXPECT_GT(told - told_before, 400 * (kSequences - 1) / 2) << "nothing was drawn";
  futures.clear();
  loop.close();
  expect_identities(stats.snapshot());
}

}  // namespace
}  // namespace tiercel
