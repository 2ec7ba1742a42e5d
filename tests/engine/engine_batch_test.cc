#include "engine/engine_batch.h"

#include <gtest/gtest.h>

#include "tests/engine/step_loop_fixture.h"

namespace tiercel {
namespace {

std::vector<Request> requests_of(std::size_t count) {
  std::vector<Request> requests;
  for (std::size_t i = 0; i < count; ++i) {
    requests.push_back({.text = "Prompt " + std::to_string(i), .max_tokens = static_cast<std::uint32_t>(i % 9)});
  }
  return requests;
}

TEST(ProcessBatch, AnswersAllInTheirOrderHoweverFewMayWait) {
  const std::vector<Request> requests = requests_of(200);
  std::vector<std::vector<TokenId>> alone;
  {
    Harness harness;
    for (const Request& request : requests) alone.push_back(harness.submit(request).get()->tokens);
  }
  Harness harness({.max_queued_requests = 3});
  std::vector<std::size_t> told;
  const auto answers = process_batch(
      requests, 64, [&](Request request) { return harness.submit(std::move(request)); },
      [&](std::size_t done, std::size_t total) {
        EXPECT_EQ(total, requests.size());
        told.push_back(done);
      });
  ASSERT_EQ(answers.size(), requests.size());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i].ok()) << answers[i].status().to_string();
    EXPECT_EQ(answers[i]->tokens, alone[i]);
  }
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_EQ(told.back(), requests.size());
}

TEST(ProcessBatch, SendsAgainWhatWasRejectedAndNothingElse) {
  const std::vector<Request> requests = requests_of(6);
  std::vector<std::pair<std::string, std::uint32_t>> sent;
  std::size_t in_flight = 0, most_in_flight = 0;
  std::vector<std::pair<std::shared_ptr<ResponsePromise>, Request>> waiting;
  const auto answer_all = [&] {
    for (auto& [promise, request] : std::exchange(waiting, {})) {
      --in_flight;
      if (request.text == "Prompt 1" && request.attempt < 2) {
        promise->set(Status::rejected("full", 1));
      } else if (request.text == "Prompt 4") {
        promise->set(Status::invalid_argument("no"));
      } else {
        promise->set(Response{.text = request.text});
      }
    }
  };
  const auto answers = process_batch(requests, 2,
                                     [&](Request request) {
                                       auto promise = std::make_shared<ResponsePromise>(false);
                                       sent.emplace_back(request.text, request.attempt);
                                       most_in_flight = std::max(most_in_flight, ++in_flight);
                                       waiting.emplace_back(promise, std::move(request));
                                       if (in_flight == 2 || sent.size() >= 7) answer_all();
                                       return ResponseFuture(promise);
                                     },
                                     {});
  ASSERT_EQ(answers.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(answers[i].ok(), i != 4);
    if (answers[i].ok()) {
      EXPECT_EQ(answers[i]->text, requests[i].text);
    }
  }
  EXPECT_EQ(answers[4].status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(sent.size(), 8u) << "one of them three times";
  EXPECT_EQ(std::ranges::count(sent, std::pair<std::string, std::uint32_t>("Prompt 1", 2)), 1);
  EXPECT_EQ(most_in_flight, 2u);
}

TEST(ProcessBatch, OfNothingIsNothing) {
  EXPECT_TRUE(process_batch({}, 4, [](Request) { return ResponseFuture(); }, {}).empty());
}

}  // namespace
}  // namespace tiercel
