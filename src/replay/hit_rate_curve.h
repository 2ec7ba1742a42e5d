// Hit rate by cache size, and what it says about the size to choose.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "replay/offline_optimum.h"
#include "replay/replay.h"
#include "replay/trace.h"
#include "tiercel/status.h"

namespace tiercel {

struct NamedPolicy {
  std::string name;
  EvictionPolicyFactory factory;
};

struct CurvePoint {
  std::size_t capacity_blocks = 0;
  double optimum = 0;             // hit rates, as all below
  std::vector<double> by_policy;  // in the order of HitRateCurve::policies
};

// The smallest cache that does most of what any cache can.
struct SizeAdvice {
  std::size_t capacity_blocks = 0;
  std::string policy;           // the one that needs least for it
  double hit_rate = 0;          // at least kGoodShare of the unbounded one
  double doubled_hit_rate = 0;  // of the same policy with twice the blocks
};

struct HitRateCurve {
  // Of what an unbounded cache finds, where more memory begins to pay little.
  static constexpr double kGoodShare = 0.9;

  std::vector<std::string> policies;
  std::size_t distinct_blocks = 0;
  double unbounded_hit_rate = 0;
  std::vector<CurvePoint> points;    // by capacity, ascending, all different
  std::optional<SizeAdvice> advice;  // none where nothing comes back
};

// Called with the share of the work that is done, 0 .. 1.
using CurveProgress = std::function<void(double)>;

// 16 sizes from 0.2 to 100 % of the distinct blocks, evenly spaced by ratio, and a search between two of them for the
// advice, to within 3 %. Statuses as replay(). `policies` must not be empty.
Result<HitRateCurve> hit_rate_curve(const Trace& trace, const OfflineOptimum& optimum,
                                    const std::vector<NamedPolicy>& policies, std::size_t queued_requests,
                                    const CurveProgress& progress = {});

// round(fraction * distinct blocks), at least 1.
std::size_t blocks_of_fraction(const Trace& trace, double fraction);

}  // namespace tiercel
