// Ranks on emulated GPUs: tokens are drawn on the first one's from the logits of all, as the engine draws them.
#include "tests/device/drawn_answers.h"
#include "tests/device/rank_followers.h"

namespace tiercel {
namespace {

class DeviceRanksSampling : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceRanksSampling, testing::Range(0, kSanitized ? 1 : 3));
class DeviceRanksAnswers : public NcclTest {};
INSTANTIATE_TEST_SUITE_P(Seeds, DeviceRanksAnswers, testing::Range(1, kSanitized ? 2 : 3));

// Of a model on so many GPUs.
void serve_with_ranks(std::uint32_t size, DeviceServing::Options options,
                      const std::function<void(DeviceServing&)>& serve) {
  RankFollowers followers(size);
  options.load = followers.loading();
  {
    DeviceServing serving(options);
    followers.begin(serving.device);
    serve(serving);
  }
  followers.expect_good_ends();
}

TEST_P(DeviceRanksSampling, AStepDrawsWhatTheSamplerDraws) {
  for (const std::uint32_t size : {2u, 4u}) {
    for (const bool decodes : {false, true}) {
      SCOPED_TRACE(testing::Message() << size << " ranks, decodes: " << decodes);
      RankFollowers followers(size);
      DeviceModel model(shared_model(), Compute::Fast, 24, {}, false, false, followers.loading());
      followers.begin(model);
      expect_drawn_step(model, static_cast<std::uint64_t>(GetParam()) + size, decodes, static_cast<int>(2 * size + 2));
    }
  }
}

TEST_P(DeviceRanksAnswers, AreThoseOfTheHost) {
  const auto accepted = expect_answers_of_the_host(/*seed=*/1, [&](DeviceServing::Options options, const auto& serve) {
    options.deterministic = GetParam() % 2 == 0;
    serve_with_ranks(2, std::move(options), serve);
  });
  EXPECT_GT(accepted, 0u);
}

TEST_P(DeviceRanksSampling, NoLogitsGoToTheHostForNothing) {
  serve_with_ranks(2, {.max_draft_tokens = 4}, expect_no_logits_on_the_host);
}

}  // namespace
}  // namespace tiercel
