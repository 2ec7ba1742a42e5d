// Tokens that a model draws on its GPU are those that the engine draws from its logits.
#include "tests/cuemu/device.h"
#include "tests/device/drawn_answers.h"

namespace tiercel {
namespace {

TEST(DeviceSampling, AStepDrawsWhatTheSamplerDraws) {
  for (std::uint64_t seed = 1; seed <= (kSanitized ? 4 : 12); ++seed) {
    SCOPED_TRACE(seed);
    cuemu::reset_device({.seed = seed});
    DeviceModel model(DeviceServing::tiny_model(), Compute::Fast);
    expect_drawn_step(model, seed, /*decodes=*/seed % 2 == 0, /*most_copies=*/3);
  }
}

// Whole answers: greedy and not, with seeds, choices, drafts, penalties, biases and scores.
TEST(DeviceSampling, AnswersAreThoseOfTheHost) {
  std::size_t accepted = 0;
  for (std::uint64_t seed = 1; seed <= (kSanitized ? 1 : 2); ++seed) {
    SCOPED_TRACE(seed);
    accepted += expect_answers_of_the_host(seed, [&](DeviceServing::Options options, const auto& serve) {
      cuemu::reset_device({.seed = seed});
      options.deterministic = seed % 2 == 0;
      DeviceServing serving(options);
      serve(serving);
    });
  }
  EXPECT_GT(accepted, 0u);
}

// A request whose tokens the GPU can draw has no row of logits on the host.
TEST(DeviceSampling, NoLogitsGoToTheHostForNothing) {
  cuemu::reset_device({.seed = 3});
  DeviceServing serving({.max_draft_tokens = 4});
  expect_no_logits_on_the_host(serving);
}

}  // namespace
}  // namespace tiercel
