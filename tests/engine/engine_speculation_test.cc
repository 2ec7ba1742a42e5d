// Speculative decoding with the real model: the same bits as without, and drafts that come true.
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

// What copies from its prompt, what repeats itself, free text, and a chat.
std::vector<Request> requests() {
  const std::string table =
      "red apple 4, green pear 7, yellow plum 9, black grape 12, white peach 3, blue berry 8, brown nut 15";
  std::vector<Request> requests;
  requests.push_back({.text = "List: " + table + ".\nThe same list: red apple 4,", .max_tokens = 32});
  requests.push_back({.text = "One, two, three, one, two, three, one, two", .max_tokens = 32});
  requests.push_back({.text = "The lighthouse keeper looked at the sea and", .max_tokens = 32});
  requests.push_back(
      {.messages = {{.role = "user", .content = "Repeat this word by word: " + table}}, .max_tokens = 32});
  for (Request& request : requests) request.ignore_end_of_text = true;
  const std::size_t greedy = requests.size();
  for (std::size_t i = 0; i < greedy; ++i) {
    Request drawn = requests[i];
    drawn.sampling = {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1.1f, .seed = 11 + i};
    requests.push_back(drawn);
  }
  return requests;
}

TEST(EngineSpeculation, ChangesNoBit) {
  REQUIRE_TEST_MODEL();
  for (const auto& [compute, deterministic] :
       {std::pair(Compute::Fast, false), std::pair(Compute::Fast, true), std::pair(Compute::Turbo, false)}) {
    EngineOptions options{
        .model = test_model_path(), .compute = compute, .deterministic = deterministic, .speculation = false};
    CheckedEngine plain = Engine::open(options).value();
    options.speculation = true;
    CheckedEngine drafting = Engine::open(options).value();
    for (int round = 0; round < 2; ++round) {  // the second time, the cache knows the answers
      for (const Request& request : requests()) {
        const Response a = plain.process_request(request).get().value();
        const Response b = drafting.process_request(request).get().value();
        ASSERT_EQ(a.drafted_tokens, 0u);
        ASSERT_EQ(a.tokens, b.tokens) << request.text;
        ASSERT_EQ(a.logprobs, b.logprobs) << request.text;
        ASSERT_EQ(a.text, b.text);
      }
    }
    EXPECT_GT(drafting.get_stats().accepted_tokens, 0u);
  }
}

TEST(EngineSpeculation, AnAnswerThatIsAskedForAgainIsAcceptedFromTheCache) {
  REQUIRE_TEST_MODEL();
  CheckedEngine engine = Engine::open({.model = test_model_path()}).value();
  // So that it is known what steps take.
  ASSERT_TRUE(engine.process_request({.text = "Hello there", .max_tokens = 16}).get().ok());
  const Request request{.messages = {{.role = "user", .content = "Tell me about the rivers of Europe."}},
                        .max_tokens = 100,
                        .sampling = {.temperature = 1.0f, .seed = 3},
                        .ignore_end_of_text = true};
  const Response first = engine.process_request(request).get().value();
  const Response second = engine.process_request(request).get().value();
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_EQ(first.logprobs, second.logprobs);
  EXPECT_GT(second.drafted_tokens, 0u);  // how many, depends on what rows take just now
  EXPECT_GT(second.accepted_tokens, second.drafted_tokens * 8 / 10);
}

}  // namespace
}  // namespace tiercel
