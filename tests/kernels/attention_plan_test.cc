#include "kernels/attention_plan.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/thread_team.h"
#include "tests/kernels/attention_case.h"

namespace tiercel {
namespace {

// Whatever a step has, and however many threads: what each query gets is what one call gives. One long context beside
// short ones is cut.
TEST(AttentionPlan, GivesWhatOneCallGives) {
  AttentionCase c(DType::F32, 32, 2, 2, 32, 1500, 10);
  std::mt19937 random(11);
  for (int round = 0; round < 30; ++round) {
    const std::size_t threads = 1 + random() % 4;
    ThreadTeam team(threads);
    kernels::AttentionPlan plan(kernels::kAttention, c.layout, c.group, threads);
    const AlignedFloats workspace(plan.workspace_floats());
    plan.set_workspace(workspace.start);
    plan.add(c.args(3, 1, AttentionStyle::Decode, nullptr));  // forgotten
    plan.clear();
    std::vector<std::pair<std::size_t, std::size_t>> runs;
    std::vector<std::vector<float>> outs;
    for (std::size_t i = 0; i <= random() % 4; ++i) {
      const std::size_t tokens = 1 + random() % (random() % 2 ? 150 : 4);
      runs.emplace_back(random() % (c.length - tokens), tokens);
      outs.emplace_back(c.length * c.q_stride, 77.0f);
    }
    for (std::size_t i = 0; i < runs.size(); ++i) {
      plan.add(c.args(runs[i].first, runs[i].second, AttentionStyle::Decode, outs[i].data()));
    }
    plan.finish();
    plan.run(team, 1);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      ASSERT_EQ(outs[i], c.run(runs[i].first, runs[i].second, AttentionStyle::Decode)) << "round " << round;
    }
  }
}

// Sequences that begin with the same blocks, for as many spans as the seed says, and go on with their own: the bits are
// those of each alone, and there are fewer tasks than sequences have heads.
TEST(AttentionPlan, ReadsSharedBlocksOnceAndChangesNoBit) {
  if (!kernels::has_bf16_products()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  std::mt19937 random(14);
  std::size_t together = 0;
  for (int round = 0; round < 16; ++round) {
    // Styles that give different bits are not put together.
    const bool has_styles = round % 4 == 3 && kernels::has_int8_attention();
    const bool in_words = round % 8 == 7 && kernels::has_int16_attention();
    const AttentionKernel& kernel = in_words     ? kernels::kInt16Attention
                                    : has_styles ? kernels::kInt8Attention
                                                 : kernels::kBf16Attention;
    AttentionCase c(round % 2 ? DType::Int8 : DType::BF16, random() % 2 ? 64 : 80, 1 + random() % 3, 1 + random() % 4,
                    32, 1216, 20 + random());
    const std::size_t threads = 1 + random() % 2, prefixes = 1 + random() % 3, sequences = 16 + random() % 20;
    ThreadTeam team(threads);
    kernels::AttentionPlan plan(kernel, c.layout, c.group, threads);
    const AlignedFloats workspace(plan.workspace_floats());
    plan.set_workspace(workspace.start);
    struct Sequence {
      std::vector<BlockId> table;
      std::size_t first, tokens;
      std::vector<float> out, alone;
    };
    std::vector<Sequence> all(sequences);
    std::size_t tasks = 0;
    for (Sequence& one : all) {
      one.tokens = 1 + random() % (random() % 8 ? 8 : 40);
      one.first = random() % (random() % 2 ? 300 : c.length - one.tokens);
      one.table = c.table;
      // Blocks of its own from some block on: those of the context in another order.
      const auto own = one.table.begin() + static_cast<std::ptrdiff_t>(3 + random() % (one.table.size() - 3));
      if (random() % 4) std::shuffle(own, one.table.end(), random);
      std::rotate(one.table.begin(), one.table.begin() + static_cast<std::ptrdiff_t>(random() % prefixes), own);
      one.out.assign(c.length * c.q_stride, 77.0f);
      one.alone = one.out;
      const AlignedFloats scratch(kernel.scratch_floats(c.layout, one.tokens, c.group));
      const AttentionStyle style = has_styles && random() % 3 == 0 ? AttentionStyle::Prefill : AttentionStyle::Decode;
      kernels::AttentionArgs call = c.args(one.first, one.tokens, style, one.alone.data());
      call.block_table = one.table.data();
      for (call.kv_head = 0; call.kv_head < c.layout.kv_heads; ++call.kv_head) kernel.attend(call, scratch.start);
      call.out = one.out.data() + one.first * c.q_stride;
      plan.add(call);
      tasks += c.layout.kv_heads;
    }
    plan.finish();
    plan.run(team, 1);
    for (const Sequence& one : all) ASSERT_EQ(one.out, one.alone) << "round " << round;
    together += plan.tasks() < tasks;
  }
  EXPECT_GT(together, 4u) << "shared nothing";
}

TEST(AttentionPlan, CutsALongContextForAllThreadsToShare) {
  AttentionCase c(DType::F32, 32, 1, 1, 32, 3000, 12);
  std::vector<float> out(c.length * c.q_stride);
  kernels::AttentionPlan plan(kernels::kAttention, c.layout, 1, 3);
  const AlignedFloats workspace(plan.workspace_floats());
  plan.set_workspace(workspace.start);
  plan.add(c.args(2900, 1, AttentionStyle::Decode, out.data()));
  plan.add(c.args(10, 1, AttentionStyle::Decode, out.data()));
  plan.finish();
  EXPECT_EQ(plan.tasks(), kernels::kAttention.sections(c.layout, 2901) + 1);
}

}  // namespace
}  // namespace tiercel
