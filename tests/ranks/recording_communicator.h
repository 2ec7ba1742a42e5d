// A communicator that keeps what its rank calls, in the order of the calls: what a rank does when, whatever the time.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "ranks/communicator.h"

namespace tiercel {

class RecordingCommunicator final : public Communicator {
 public:
  // Of sums, sends and receives: "sum 64 of 2 ranks", "send 64 to 1", "receive 64 from 0", in elements or floats (0: a
  // byte).
  using Calls = std::vector<std::string>;

  explicit RecordingCommunicator(Communicator& inner) : inner_(inner), calls_(std::make_shared<Calls>()) {}
  explicit RecordingCommunicator(std::unique_ptr<Communicator> inner)
      : RecordingCommunicator(std::move(inner), std::make_shared<Calls>()) {}

  const Calls& calls() const { return *calls_; }
  void clear() { calls_->clear(); }

  std::uint32_t rank() const override { return inner_.rank(); }
  std::uint32_t size() const override { return inner_.size(); }
  Status all_reduce_sum(void* values, std::size_t count, Element element) override {
    calls_->push_back(fmt::format("sum {} of {} ranks", count, size()));
    return inner_.all_reduce_sum(values, count, element);
  }
  Status all_gather(const void* mine, std::size_t bytes, void* all) override {
    return inner_.all_gather(mine, bytes, all);
  }
  Status broadcast(void* data, std::size_t bytes, std::uint32_t root) override {
    return inner_.broadcast(data, bytes, root);
  }
  Status send(const void* data, std::size_t bytes, std::uint32_t to) override {
    calls_->push_back(fmt::format("send {} to {}", bytes / sizeof(float), to));
    return inner_.send(data, bytes, to);
  }
  Status receive(void* data, std::size_t bytes, std::uint32_t from) override {
    calls_->push_back(fmt::format("receive {} from {}", bytes / sizeof(float), from));
    return inner_.receive(data, bytes, from);
  }
  Status barrier() override { return inner_.barrier(); }
  Result<std::unique_ptr<Communicator>> group(const std::vector<std::uint32_t>& ranks) override {
    auto group = inner_.group(ranks);
    if (!group.ok()) return group.status();
    return std::unique_ptr<Communicator>(new RecordingCommunicator(*std::move(group), calls_));
  }
  void set_timeout_ms(std::uint64_t timeout_ms) override { inner_.set_timeout_ms(timeout_ms); }
  Status wait() override { return inner_.wait(); }
  void abort() override { inner_.abort(); }

 private:
  RecordingCommunicator(std::unique_ptr<Communicator> own, std::shared_ptr<Calls> calls)
      : own_(std::move(own)), inner_(*own_), calls_(std::move(calls)) {}

  const std::unique_ptr<Communicator> own_;  // null: the caller's
  Communicator& inner_;
  const std::shared_ptr<Calls> calls_;
};

}  // namespace tiercel
