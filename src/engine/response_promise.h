// The engine's side of a ResponseFuture: set once, by the engine; waited for, taken and cancelled by anyone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>

#include "tiercel/request.h"

namespace tiercel {

class ResponsePromise final : public internal::ResponseState {
 public:
  explicit ResponsePromise(bool cancel_when_dropped = false) : cancel_when_dropped_(cancel_when_dropped) {}

  // Makes the future ready and runs its callback, if one waits, on this thread.
  void set(Result<Response> response);
  bool cancel_requested() const { return cancel_requested_.load(std::memory_order_relaxed); }

  void wait() override;
  bool wait_for(std::chrono::milliseconds timeout) override;
  void cancel() override { cancel_requested_.store(true, std::memory_order_relaxed); }
  void abandon() override {
    if (cancel_when_dropped_) cancel();
  }
  void on_ready(std::function<void()> callback) override;
  bool ready() const override;
  Result<Response> take() override;

 private:
  const bool cancel_when_dropped_;
  mutable std::mutex mutex_;
  std::condition_variable became_ready_;
  std::optional<Result<Response>> response_;
  bool ready_ = false;  // stays when the response is taken
  std::function<void()> callback_;
  std::atomic<bool> cancel_requested_ = false;
};

}  // namespace tiercel
