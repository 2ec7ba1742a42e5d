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
#include "tests/ranks/rank_threads.h"

namespace tiercel {

class RankFollowers {
 public:
  explicit RankFollowers(std::uint32_t size) : size_(size), statuses_(size - 1) {}
  ~RankFollowers() {
    for (const Status& status : join()) EXPECT_TRUE(status.ok()) << status.to_string();
  }

  // Rank 0's part of the model, which ends the others when it ends; the parts of all are made with `options`, which
  // become those of rank 0. Once.
  std::unique_ptr<ModelRunner> load(const GgufFile& file, DeviceLlamaOptions& options) {
    shape_ = read_llama_config(file)->shape;
    const std::string address = free_address();
    const NcclId id = create_nccl_id().value();
    for (std::uint32_t rank = 1; rank < size_; ++rank) {
      threads_.emplace_back([this, &file, address, id, rank, of_rank = options]() mutable {
        auto communicator = open_tcp_communicator(rank_options(address, rank, size_)).value();
        const auto model = load_part(file, rank, id, of_rank);
        const KvLayout layout = device_llama_kv_layout(shape_, of_rank);
        const auto reserve = [&](std::size_t blocks) -> Result<std::shared_ptr<const BlockMemory>> {
          EXPECT_EQ(cudaSetDevice(static_cast<int>(rank)), cudaSuccess);
          return std::shared_ptr<const BlockMemory>(DeviceBlockMemory::reserve(blocks, layout).value());
        };
        statuses_[rank - 1] = follow_first_rank(*communicator, *model, layout, nullptr, reserve);
      });
    }
    auto communicator = open_tcp_communicator(rank_options(address, 0, size_)).value();
    auto own = load_part(file, 0, id, options);  // when it returns, all have theirs
    auto first = std::make_unique<RankedModel>(std::move(communicator), std::move(own), /*interval_ms=*/20'000);
    first_ = first.get();
    return first;
  }
  DeviceModel::Load loading() {
    return [this](const GgufFile& file, DeviceLlamaOptions& options) { return load(file, options); };
  }
  // The others have blocks, too; before the first step.
  void begin(DeviceModel& first) const {
    EXPECT_TRUE(first_->begin(first.memory->blocks()).ok());
    first.cache->observe_copies([ranks = first_](auto... copied) { ranks->copy_block(copied...); });
  }

  const std::vector<Status>& join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return statuses_;
  }

 private:
  std::unique_ptr<ModelRunner> load_part(const GgufFile& file, std::uint32_t rank, const NcclId& id,
                                         DeviceLlamaOptions& options) const {
    options.device = static_cast<int>(rank);
    options.shard = shard_model(shape_, rank, size_).value();
    DeviceLlamaOptions opening = options;
    opening.open_communicator = [this, rank, id](const CudaStream& stream) {
      return open_nccl_communicator(nccl_options(rank, size_), id, stream);
    };
    return load_device_llama(file, opening).value();
  }

  const std::uint32_t size_;
  ModelShape shape_;
  RankedModel* first_ = nullptr;
  std::vector<Status> statuses_;
  std::vector<std::thread> threads_;
};

}  // namespace tiercel
