#include "engine/response_promise.h"

#include <utility>

namespace tiercel {

void ResponsePromise::set(Result<Response> response) {
  std::function<void()> callback;
  {
    const std::lock_guard lock(mutex_);
    response_ = std::move(response);
    ready_ = true;
    callback = std::exchange(callback_, nullptr);
    became_ready_.notify_all();  // under the lock: a waiter may drop the promise as soon as it wakes
  }
  if (callback) callback();
}

void ResponsePromise::wait() {
  std::unique_lock lock(mutex_);
  became_ready_.wait(lock, [&] { return ready_; });
}

bool ResponsePromise::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return became_ready_.wait_for(lock, timeout, [&] { return ready_; });
}

void ResponsePromise::on_ready(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (!ready_) {
      callback_ = std::move(callback);
      return;
    }
  }
  callback();
}

bool ResponsePromise::ready() const {
  const std::lock_guard lock(mutex_);
  return ready_;
}

Result<Response> ResponsePromise::take() {
  const std::lock_guard lock(mutex_);
  Result<Response> taken =
      response_ ? std::move(*response_) : Result<Response>(Status::internal("the response was taken already"));
  response_.reset();
  return taken;
}

}  // namespace tiercel
