#include "kv/circuit_breaker.h"

#include <algorithm>

namespace tiercel {

bool CircuitBreaker::allows(double now_s) const { return is_closed() || (now_s >= open_until_s_ && !probing_); }

void CircuitBreaker::on_begin(double now_s) { probing_ = !is_closed() && now_s >= open_until_s_; }

void CircuitBreaker::on_success() {
  failures_ = 0;
  probing_ = false;
  open_until_s_ = 0;
  pause_s_ = kFirstPause_s;
}

void CircuitBreaker::on_failure(double now_s) {
  if (probing_ || ++failures_ >= kMostFailures) trip(now_s);
}

void CircuitBreaker::trip(double now_s) {
  open_until_s_ = now_s + pause_s_;
  pause_s_ = std::min(2 * pause_s_, kLongestPause_s);
  probing_ = false;
  failures_ = 0;
  ++trips_;
}

}  // namespace tiercel
