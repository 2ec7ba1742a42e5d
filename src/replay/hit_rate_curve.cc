#include "replay/hit_rate_curve.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

namespace tiercel {
namespace {

constexpr std::size_t kSizes = 16;
constexpr double kSmallestFraction = 0.002;
constexpr double kAdvicePrecision = 1.03;
// Replays that the advice takes: it divides the ratio of two neighbours, 1.5, until it is within the precision, and
// measures twice the size.
constexpr std::size_t kAdviceReplays = 5;

class CurveMeasurement {
 public:
  CurveMeasurement(const Trace& trace, const OfflineOptimum& optimum, const std::vector<NamedPolicy>& policies,
                   std::size_t queued_requests, const CurveProgress& progress)
      : trace_(trace), optimum_(optimum), policies_(policies), queued_requests_(queued_requests), progress_(progress) {}

  Result<HitRateCurve> measure();

 private:
  Result<double> hit_rate(const NamedPolicy& policy, std::size_t capacity_blocks);
  Result<CurvePoint> point(std::size_t capacity_blocks);
  Result<std::optional<SizeAdvice>> advice(const HitRateCurve& curve);

  const Trace& trace_;
  const OfflineOptimum& optimum_;
  const std::vector<NamedPolicy>& policies_;
  const std::size_t queued_requests_;
  const CurveProgress& progress_;
  std::size_t replays_ = 0;
};

std::vector<std::size_t> sizes(const Trace& trace) {
  std::vector<std::size_t> blocks;
  for (std::size_t i = 0; i < kSizes; ++i) {
    const double exponent = 1 - static_cast<double>(i) / (kSizes - 1);
    blocks.push_back(blocks_of_fraction(trace, std::pow(kSmallestFraction, exponent)));
  }
  blocks.erase(std::ranges::unique(blocks).begin(), blocks.end());  // of a trace of few blocks
  return blocks;
}

Result<double> CurveMeasurement::hit_rate(const NamedPolicy& policy, std::size_t capacity_blocks) {
  const double replays = static_cast<double>(kSizes * policies_.size() + kAdviceReplays);
  const auto tell = [&](std::size_t requests) {
    const double here = static_cast<double>(requests) / static_cast<double>(trace_.requests.size());
    progress_(std::min(1.0, (static_cast<double>(replays_) + here) / replays));
  };
  auto result = replay(
      trace_, {.eviction = policy.factory, .capacity_blocks = capacity_blocks, .queued_requests = queued_requests_},
      progress_ ? ReplayProgress(tell) : ReplayProgress());
  ++replays_;
  if (!result.ok()) return result.status();
  return result->hit_rate();
}

Result<CurvePoint> CurveMeasurement::point(std::size_t capacity_blocks) {
  CurvePoint point{.capacity_blocks = capacity_blocks, .optimum = optimum_.hit_rate(capacity_blocks), .by_policy = {}};
  for (const NamedPolicy& policy : policies_) {
    auto rate = hit_rate(policy, capacity_blocks);
    if (!rate.ok()) return rate.status();
    point.by_policy.push_back(*rate);
  }
  return point;
}

Result<HitRateCurve> CurveMeasurement::measure() {
  HitRateCurve curve{.policies = {},
                     .distinct_blocks = trace_.distinct_blocks,
                     .unbounded_hit_rate = optimum_.unbounded_hit_rate(),
                     .points = {},
                     .advice = {}};
  for (const NamedPolicy& policy : policies_) curve.policies.push_back(policy.name);
  for (const std::size_t capacity_blocks : sizes(trace_)) {
    auto measured = point(capacity_blocks);
    if (!measured.ok()) return measured.status();
    curve.points.push_back(*std::move(measured));
  }
  auto found = advice(curve);
  if (!found.ok()) return found.status();
  curve.advice = *std::move(found);
  if (progress_) progress_(1);
  return curve;
}

Result<std::optional<SizeAdvice>> CurveMeasurement::advice(const HitRateCurve& curve) {
  const double wanted = HitRateCurve::kGoodShare * curve.unbounded_hit_rate;
  const auto best = [](const CurvePoint& point) { return std::ranges::max_element(point.by_policy); };
  const auto enough = std::ranges::find_if(curve.points, [&](const CurvePoint& p) { return *best(p) >= wanted; });
  if (curve.unbounded_hit_rate <= 0 || enough == curve.points.end()) return std::optional<SizeAdvice>();

  const NamedPolicy& policy = policies_[static_cast<std::size_t>(best(*enough) - enough->by_policy.begin())];
  SizeAdvice advice{.capacity_blocks = enough->capacity_blocks, .policy = policy.name, .hit_rate = *best(*enough)};
  std::size_t too_few = enough == curve.points.begin() ? 0 : std::prev(enough)->capacity_blocks;
  const auto is_coarse = [&] {
    return too_few > 0 && advice.capacity_blocks - too_few > 1 &&
           static_cast<double>(advice.capacity_blocks) > kAdvicePrecision * static_cast<double>(too_few);
  };
  while (is_coarse()) {
    const std::size_t between = too_few + (advice.capacity_blocks - too_few) / 2;
    auto rate = hit_rate(policy, between);
    if (!rate.ok()) return rate.status();
    if (*rate < wanted) {
      too_few = between;
    } else {
      advice.capacity_blocks = between;
      advice.hit_rate = *rate;
    }
  }
  auto doubled = hit_rate(policy, 2 * advice.capacity_blocks);
  if (!doubled.ok()) return doubled.status();
  advice.doubled_hit_rate = *doubled;
  return std::optional(std::move(advice));
}

}  // namespace

Result<HitRateCurve> hit_rate_curve(const Trace& trace, const OfflineOptimum& optimum,
                                    const std::vector<NamedPolicy>& policies, std::size_t queued_requests,
                                    const CurveProgress& progress) {
  assert(!policies.empty());
  return CurveMeasurement(trace, optimum, policies, queued_requests, progress).measure();
}

std::size_t blocks_of_fraction(const Trace& trace, double fraction) {
  const double blocks = std::round(fraction * static_cast<double>(trace.distinct_blocks));
  return std::max<std::size_t>(1, static_cast<std::size_t>(blocks));
}

}  // namespace tiercel
