// Whether a tier is worth asking, by what became of the last operations (Nygard, Release It!, 2007).
//
// Closed: it is asked. After kMostFailures operations in a row that failed, or one that came too late, it is open:
// nobody asks it for a while, which doubles with every trip up to a limit. Then one operation is let through as a probe
// (half-open); its end decides. A pure decision over times that the caller gives. Not synchronised.
#pragma once

#include <cstdint>

namespace tiercel {

class CircuitBreaker {
 public:
  static constexpr int kMostFailures = 3;
  static constexpr double kFirstPause_s = 1;
  static constexpr double kLongestPause_s = 60;

  // Whether an operation may begin now. In the half-open state only a first one may, until its end is told.
  bool allows(double now_s) const;
  // An operation that was allowed begins.
  void on_begin(double now_s);
  void on_success();
  void on_failure(double now_s);
  // An operation is not done yet and nobody waits for it any more. Its end will be told all the same.
  void on_late(double now_s) { trip(now_s); }

  bool is_closed() const { return open_until_s_ == 0; }
  std::uint64_t trips() const { return trips_; }

 private:
  void trip(double now_s);

  double open_until_s_ = 0;  // 0: closed
  double pause_s_ = kFirstPause_s;
  bool probing_ = false;
  int failures_ = 0;  // in a row
  std::uint64_t trips_ = 0;
};

}  // namespace tiercel
