// A request's part of its replica's load, from routing until its last sequence has ended: what the router knows of it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/router.h"

namespace tiercel {

// The router of an engine, which the threads of requests and of step loops come to.
struct SharedRouter {
  explicit SharedRouter(const RouterLimits& limits) : router(limits) {}

  std::mutex mutex;
  Router router;  // guarded by it
};

class RoutedRequest {
 public:
  RoutedRequest(std::shared_ptr<SharedRouter> router, Router::Ticket ticket)
      : router_(std::move(router)), ticket_(ticket) {}
  RoutedRequest(const RoutedRequest&) = delete;
  RoutedRequest& operator=(const RoutedRequest&) = delete;
  ~RoutedRequest() {
    const std::lock_guard lock(router_->mutex);
    router_->router.end(ticket_);
  }

  // So many tokens of its prompt are still to be computed.
  void set_prompt_left(std::size_t tokens) {
    const std::lock_guard lock(router_->mutex);
    router_->router.set_prompt_left(ticket_, tokens);
  }

 private:
  const std::shared_ptr<SharedRouter> router_;
  const Router::Ticket ticket_;
};

}  // namespace tiercel
