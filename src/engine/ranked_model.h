// A model that ranks share, as rank 0's step loop sees it: every step is told to the others first, who compute their
// part on KV of their own in blocks of the same ids (rank_follower.h).
//
// When a rank dies, hangs or fails, the step under way fails within the communicator's timeout, every later one at
// once, and the other ranks leave. While nobody asks for steps, a thread makes sure now and then that all are there.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/rank_messages.h"
#include "engine/rank_progress.h"
#include "model/model_runner.h"
#include "ranks/communicator.h"

namespace tiercel {

class RankedModel final : public ModelRunner {
 public:
  // Of rank 0. `model` is its part and uses `communicator`. Asks after the others where nothing was said to them for
  // `interval_ms`, which is well below the communicator's timeout.
  RankedModel(std::unique_ptr<Communicator> communicator, std::unique_ptr<ModelRunner> model,
              std::uint64_t interval_ms);
  ~RankedModel() override;

  // The others make room for so many blocks; Ok: all have. Before the first step.
  Status begin(std::size_t blocks);
  // What tiers of ranks (ranked_store.h) go by.
  const std::shared_ptr<RankProgress>& progress() const { return progress_; }
  // For KvCache::observe_copies(). The others copy before the next step.
  void copy_block(BlockId from, BlockId to, std::size_t tokens);
  // The others leave. Later steps fail with Cancelled. Idempotent; any thread.
  void end();

  const ModelShape& shape() const override { return model_->shape(); }
  const Fingerprint& fingerprint() const override { return model_->fingerprint(); }
  ModelMemory memory() const override { return model_->memory(); }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return model_->kernels(); }
  std::size_t max_logit_rows() const override { return model_->max_logit_rows(); }
  void compute_over(const BlockMemory& memory) override { model_->compute_over(memory); }
  bool draws_tokens() const override { return model_->draws_tokens(); }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override;
  std::span<const kernels::DrawnToken> drawn() const override { return model_->drawn(); }
  StepProfile* profile() override { return model_->profile(); }
  double workers_cpu_s() override { return model_->workers_cpu_s(); }

 private:
  using Clock = std::chrono::steady_clock;

  // Under mutex_. What fails is kept.
  Status send(RankMessage message, std::span<const std::byte> bytes = {});
  Status fail(const Status& status);
  void watch();

  const std::unique_ptr<Communicator> communicator_;
  const std::unique_ptr<ModelRunner> model_;
  const std::chrono::milliseconds interval_;

  const std::shared_ptr<RankProgress> progress_ = std::make_shared<RankProgress>();

  std::mutex mutex_;  // of everything that is said to the others
  std::condition_variable ending_;
  Status failure_;
  bool has_ended_ = false;
  Clock::time_point last_said_ = Clock::now();
  std::vector<BlockCopy> sent_copies_;
  std::vector<std::byte> bytes_;
  std::thread watcher_;
};

}  // namespace tiercel
