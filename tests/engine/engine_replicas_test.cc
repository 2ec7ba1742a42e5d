// Replicas of the real model behind one engine.
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/base/temporary_directory.h"
#include "tests/engine/checked_engine.h"
#include "tests/model/test_model.h"
#include "tiercel/engine.h"

namespace tiercel {
namespace {

std::string long_text(const std::string& head, int facts = 40) {
  std::string text = head + "A list of facts.";
  for (int i = 0; i < facts; ++i)
    text += " Fact " + std::to_string(i) + " is about the number " + std::to_string(i * i) + ".";
  return text;
}

// Chats that share a system prompt, documents with questions, short ones; of several priorities.
std::vector<Request> mixed_requests() {
  std::vector<Request> requests;
  for (int i = 0; i < 64; ++i) {
    Request request{
        .priority = i % 3, .max_tokens = static_cast<std::uint32_t>(1 + i % 9), .endpoint = i % 2 ? "odd" : "even"};
    if (i % 3 == 0) {
      request.messages = {{.role = "system", .content = "You answer briefly."},
                          {.role = "user", .content = "What is " + std::to_string(i) + " plus 3?"}};
    } else if (i % 3 == 1) {
      request.text = long_text(std::to_string(i % 4) + ". ") + " Question " + std::to_string(i);
    } else {
      request.text = "Query " + std::to_string(i % 10);
    }
    request.cache_salt = i % 8 == 7 ? "another tenant" : "";
    requests.push_back(std::move(request));
  }
  return requests;
}

std::uint32_t reused_from(const Response& response, std::string_view tier) {
  for (const auto& [name, tokens] : response.reused_by_tier) {
    if (name == tier) return tokens;
  }
  return 0;
}

void expect_sums(const EngineStats& stats) {
  std::map<std::string, std::uint64_t> sums;
  for (const ReplicaStats& one : stats.replicas) {
    sums["submitted"] += one.submitted;
    sums["completed"] += one.completed;
    sums["prompt"] += one.prompt_tokens;
    sums["reused"] += one.reused_tokens;
    sums["output"] += one.output_tokens;
    sums["steps"] += one.steps;
    sums["kv"] += one.kv_capacity_bytes;
    EXPECT_TRUE(one.available);
  }
  EXPECT_EQ(sums["submitted"], stats.submitted);
  EXPECT_EQ(sums["completed"], stats.completed);
  EXPECT_EQ(sums["prompt"], stats.prompt_tokens);
  EXPECT_EQ(sums["reused"], stats.reused_tokens);
  EXPECT_EQ(sums["output"], stats.output_tokens);
  EXPECT_EQ(sums["steps"], stats.steps);
  EXPECT_EQ(sums["kv"], stats.memory.kv_capacity_bytes);
}

// Deterministic, so that neither timing at load nor the batch decides how anything is computed.
TEST(EngineReplicas, AnswersAreThoseOfOne) {
  REQUIRE_TEST_MODEL();
  const std::vector<Request> requests = mixed_requests();
  EngineOptions options{.model = test_model_path(), .compute = Compute::Precise, .deterministic = true};
  std::vector<std::vector<TokenId>> expected;
  MemoryStats memory;
  {
    CheckedEngine one = Engine::open(options).value();
    for (const auto& response : one.process_batch(requests)) expected.push_back(response.value().tokens);
    memory = one.get_stats().memory;
  }
  options.replicas = 2;
  CheckedEngine two = Engine::open(options).value();
  EXPECT_EQ(two.info().replicas, 2u);
  const auto responses = two.process_batch(requests);
  std::uint64_t prompt_tokens = 0, output_tokens = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(responses[i].value().tokens, expected[i]) << i;
    prompt_tokens += responses[i]->prompt_tokens.size();
    output_tokens += responses[i]->tokens.size();
  }
  const EngineStats stats = two.get_stats();
  EXPECT_EQ(stats.completed, requests.size());
  EXPECT_EQ(stats.prompt_tokens, prompt_tokens);
  EXPECT_GE(stats.output_tokens, output_tokens);
  EXPECT_EQ(stats.total.count, requests.size());
  ASSERT_EQ(stats.endpoints.size(), 2u);
  EXPECT_EQ(stats.endpoints[0].completed, 32u);
  EXPECT_EQ(stats.endpoints[1].completed, 32u);
  ASSERT_EQ(stats.replicas.size(), 2u);
  for (const ReplicaStats& one : stats.replicas) EXPECT_GT(one.completed, 0u);
  expect_sums(stats);
  // Weights are there once, what a step needs twice; the arenas have the room of one.
  EXPECT_EQ(stats.memory.weights_bytes, memory.weights_bytes);
  EXPECT_EQ(stats.memory.mapped_weights_bytes, memory.mapped_weights_bytes);
  EXPECT_GT(stats.memory.workspace_bytes, memory.workspace_bytes);
  EXPECT_LE(stats.memory.kv_capacity_bytes, memory.kv_capacity_bytes);
  EXPECT_GT(stats.memory.kv_capacity_bytes, memory.kv_capacity_bytes * 99 / 100);
}

// Whichever takes it, to the last bit.
TEST(EngineReplicas, DeterministicAnswersAreTheSameInEach) {
  REQUIRE_TEST_MODEL();
  CheckedEngine engine =
      Engine::open({.model = test_model_path(), .deterministic = true, .replicas = 2, .threads = 2}).value();
  std::vector<Response> answers;
  for (int i = 0; i < 4; ++i) {
    answers.push_back(engine.process_request({.text = long_text(""), .max_tokens = 8}).get().value());
    EXPECT_EQ(answers.back().reused_tokens, 0u);
    EXPECT_GT(engine.invalidate_all(), 0u);
  }
  for (const Response& answer : answers) {
    EXPECT_EQ(answer.tokens, answers.front().tokens);
    EXPECT_EQ(answer.logprobs, answers.front().logprobs);
  }
  for (const ReplicaStats& one : engine.get_stats().replicas) EXPECT_EQ(one.completed, 2u) << "in turn";
}

TEST(EngineReplicas, RequestsGoWhereTheirPrefixIs) {
  REQUIRE_TEST_MODEL();
  CheckedEngine engine = Engine::open({.model = test_model_path(), .replicas = 2}).value();
  for (const char* head : {"One. ", "Two. "}) {
    ASSERT_TRUE(engine.process_request({.text = long_text(head), .max_tokens = 0}).get().ok());
  }
  for (int i = 0; i < 6; ++i) {
    const std::string question = long_text(i < 4 ? "One. " : "Two. ") + " Question " + std::to_string(i);
    const Response answer = engine.process_request({.text = question, .max_tokens = 1}).get().value();
    EXPECT_GT(answer.reused_tokens, 300u);
  }
  const EngineStats stats = engine.get_stats();
  EXPECT_EQ(stats.replicas[0].submitted, 5u);
  EXPECT_EQ(stats.replicas[1].submitted, 3u);
  // What is asked of all: each has one of them.
  const auto one = engine.tokenize(long_text("One. ")).value(), two = engine.tokenize(long_text("Two. ")).value();
  for (const auto& tokens : {one, two}) {
    EXPECT_GT(engine.lookup(tokens), 300u);
    EXPECT_GT(engine.pin(tokens).value(), 300u);
    EXPECT_EQ(engine.unpin(tokens), 1u);
  }
  EXPECT_GT(engine.invalidate(std::span(one).first(32)), 9u);
  EXPECT_EQ(engine.lookup(one), 0u);
  EXPECT_GT(engine.lookup(two), 300u);
}

// What one replica computed is found by the other, through a tier: the first has no room for it any more, and the other
// has been given less to compute.
TEST(EngineReplicas, ATierGivesOneWhatAnotherComputed) {
  REQUIRE_TEST_MODEL();
  for (const bool on_disk : {false, true}) {
    SCOPED_TRACE(on_disk ? "disk" : "memory");
    TemporaryDirectory directory;
    EngineOptions options{.model = test_model_path(), .deterministic = true, .replicas = 2};
    options.cache.capacity_bytes = 2 * (16u << 20);  // in each one prompt, and not two
    if (on_disk) {
      options.cache.disk_dir = directory / "kv";
    } else {
      options.cache.memory_tier_bytes = 200u << 20;
    }
    Response computed;
    {
      CheckedEngine engine = Engine::open(options).value();
      const auto ask = [&](const char* head, int facts = 40) {
        return engine.process_request({.text = long_text(head, facts), .max_tokens = 12, .ignore_end_of_text = true})
            .get()
            .value();
      };
      computed = ask("One. ");  // in the first
      EXPECT_EQ(engine.get_stats().replicas[0].submitted, 1u);
      ask("Two. ");        // in the second
      ask("Three. ", 52);  // in the first, all of it
      const auto one = engine.tokenize(long_text("One. ")).value();
      ASSERT_EQ(engine.lookup(one), 0u);
      const Response answer = ask("One. ");
      EXPECT_EQ(engine.get_stats().replicas[1].submitted, 2u);
      // How much is loaded while the beginning is computed is a matter of the moment's speeds.
      EXPECT_GE(reused_from(answer, on_disk ? "disk" : "memory"), 32u);
      EXPECT_EQ(answer.tokens, computed.tokens);
      EXPECT_EQ(answer.logprobs, computed.logprobs);
      const EngineStats stats = engine.get_stats();
      ASSERT_EQ(stats.tiers.size(), 1u);
      EXPECT_EQ(stats.tiers[0].matched_tokens, reused_from(answer, on_disk ? "disk" : "memory"));
      expect_sums(stats);
      EXPECT_TRUE(engine.flush().ok());
    }
    if (!on_disk) continue;
    // The next process finds it too, with any number of replicas.
    for (const std::uint32_t replicas : {1u, 2u}) {
      options.replicas = replicas;
      CheckedEngine engine = Engine::open(options).value();
      const Response answer =
          engine.process_request({.text = long_text("One. "), .max_tokens = 12, .ignore_end_of_text = true})
              .get()
              .value();
      EXPECT_GT(reused_from(answer, "disk"), 300u);
      EXPECT_EQ(answer.logprobs, computed.logprobs);
      if (replicas == 2) engine.invalidate_all();
    }
    CheckedEngine engine = Engine::open(options).value();
    EXPECT_EQ(engine.process_request({.text = long_text("One. "), .max_tokens = 1}).get()->reused_tokens, 0u);
  }
}

TEST(EngineReplicas, LimitsHoldForAllTogether) {
  REQUIRE_TEST_MODEL();
  EngineOptions options{.model = test_model_path(), .replicas = 3, .memory_limit_bytes = 700u << 20};
  {
    CheckedEngine engine = Engine::open(options).value();
    const EngineStats stats = engine.get_stats();
    EXPECT_LE(stats.memory.limited_bytes, options.memory_limit_bytes);
    EXPECT_GT(stats.memory.limited_bytes, options.memory_limit_bytes * 95 / 100);
    EXPECT_EQ(stats.replicas[0].kv_capacity_bytes, stats.replicas[2].kv_capacity_bytes);
  }
  options = {
      .model = test_model_path(), .cache = {.capacity_bytes = 100u << 20}, .replicas = 3, .context_tokens = 2048};
  const Status refused = Engine::open(options).status();
  EXPECT_EQ(refused.code(), StatusCode::ResourceExhausted);
  EXPECT_NE(refused.message().find("in each replica"), std::string::npos) << refused.message();
}

}  // namespace
}  // namespace tiercel
