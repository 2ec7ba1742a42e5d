// The ranks above 0 of a tiny model on emulated GPUs: threads with a GPU each, which follow rank 0.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/rank_follower.h"
#include "engine/ranked_model.h"
#include "ranks/tcp_communicator.h"
#include "tests/device/nccl_ranks.h"
#include "tests/device/tiny_device_model.h"
#include "tests/engine/fake_model.h"
#include "tests/ranks/rank_threads.h"

namespace tiercel {

// Has parts for four ranks.
inline const TinyModel& shared_model() {
  static const TinyModel model(Variant{.name = "Shared",
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .head_dim = 64,
                                       .rotated = 64,
                                       .feed_forward = 128,
                                       .vocabulary = kFakeVocabulary,
                                       .type = TensorType::Q4_1});
  return model;
}

class RankFollowers {
 public:
  explicit RankFollowers(std::uint32_t size)
      : size_(size), memories_(size), communicators_(size), statuses_(size - 1) {}
  ~RankFollowers() { join(); }

  // Rank 0's part of the model, which ends the others when it ends; the parts of all are made with `options`, which
  // become those of rank 0. Once.
  std::unique_ptr<ModelRunner> load(const GgufFile& file, DeviceLlamaOptions& options) {
    shape_ = read_llama_config(file)->shape;
    const std::string address = free_address();
    const NcclId id = create_nccl_id().value();
    for (std::uint32_t rank = 1; rank < size_; ++rank) {
      threads_.emplace_back([this, &file, address, id, rank, of_rank = options]() mutable {
        auto communicator = open_tcp_communicator(rank_options(address, rank, size_, kTimeout_ms)).value();
        const auto model = load_part(file, rank, id, of_rank);
        const KvLayout layout = device_llama_kv_layout(shape_, of_rank);
        const auto reserve = [&](std::size_t blocks) -> Result<std::shared_ptr<const BlockMemory>> {
          EXPECT_EQ(cudaSetDevice(static_cast<int>(rank)), cudaSuccess);
          memories_[rank] = DeviceBlockMemory::reserve(blocks, layout).value();
          return memories_[rank];
        };
        statuses_[rank - 1] = follow_first_rank(*communicator, *model, layout, nullptr, reserve);
      });
    }
    auto communicator = open_tcp_communicator(rank_options(address, 0, size_, kTimeout_ms)).value();
    auto own = load_part(file, 0, id, options);  // when it returns, all have theirs
    auto first = std::make_unique<RankedModel>(std::move(communicator), std::move(own), kTimeout_ms / 3);
    first_ = first.get();
    return first;
  }
  DeviceModel::Load loading() {
    return [this](const GgufFile& file, DeviceLlamaOptions& options) { return load(file, options); };
  }
  // The others have blocks, too; before the first step.
  void begin(DeviceModel& first) {
    memories_[0] = first.memory;
    EXPECT_TRUE(first_->begin(first.memory->blocks()).ok());
    first.cache->observe_copies([ranks = first_](auto... copied) { ranks->copy_block(copied...); });
  }

  // Between steps, of every rank's sums from now on: before a loss. A short one from the start would be a wager on how
  // fast a machine emulates.
  void set_timeout_ms(std::uint64_t timeout_ms) {
    for (Communicator* communicator : communicators_) communicator->set_timeout_ms(timeout_ms);
  }

  // Of a rank, since begin().
  const BlockMemory& memory(std::uint32_t rank) const { return *memories_[rank]; }

  // What each ended with, when rank 0's part has.
  const std::vector<Status>& join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return statuses_;
  }
  void expect_good_ends() {
    for (const Status& status : join()) EXPECT_TRUE(status.ok()) << status.to_string();
  }

 private:
  std::unique_ptr<ModelRunner> load_part(const GgufFile& file, std::uint32_t rank, const NcclId& id,
                                         DeviceLlamaOptions& options) {
    options.device = static_cast<int>(rank);
    options.shard = shard_model(shape_, rank, size_).value();
    DeviceLlamaOptions opening = options;
    opening.open_communicator = [this, rank, id](const CudaStream& stream) {
      auto communicator = open_nccl_communicator(nccl_options(rank, size_, kTimeout_ms), id, stream);
      communicators_[rank] = communicator->get();
      return communicator;
    };
    return load_device_llama(file, opening).value();
  }

  static constexpr std::uint64_t kTimeout_ms = 60'000;

  const std::uint32_t size_;
  ModelShape shape_;
  RankedModel* first_ = nullptr;
  std::vector<std::shared_ptr<const BlockMemory>> memories_;
  std::vector<Communicator*> communicators_;  // of the parts
  std::vector<Status> statuses_;
  std::vector<std::thread> threads_;
};

}  // namespace tiercel
