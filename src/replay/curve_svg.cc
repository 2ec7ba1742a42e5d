#include "replay/curve_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace tiercel {
namespace {

constexpr double kWidth = 880;
constexpr double kLeft = 78;
constexpr double kRight = kWidth - 30;
constexpr double kTop = 118;
constexpr double kBottom = 478;
constexpr double kTickRow = 20;  // height of a row of labels below the plot

// Colours that people with colour-blindness tell apart, too; policies beyond these begin again.
constexpr std::size_t kColours = 4;

constexpr std::string_view kStyle = R"(<style>
text { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-size: 13px }
text { fill: #57606a }
.paper { fill: #ffffff }
.title { font-size: 19px; font-weight: 600; fill: #1f2328 }
.axis, .strong { fill: #1f2328 }
.grid { stroke: #d8dee4; stroke-width: 1 }
.base { stroke: #8c959f; stroke-width: 1.2 }
.line { fill: none; stroke-width: 2.4; stroke-linejoin: round; stroke-linecap: round }
.dot { stroke: #ffffff; stroke-width: 1.2 }
.optimum { stroke: #8c959f; stroke-width: 2; stroke-dasharray: 7 4 }
.room { fill: #8c959f; fill-opacity: .1 }
.bound { stroke: #8c959f; stroke-width: 1.2; stroke-dasharray: 1.5 3.5 }
.advice { stroke: #1f2328; stroke-width: 1.2; stroke-dasharray: 3 3 }
.ring { fill: none; stroke: #1f2328; stroke-width: 1.8 }
.s0 { stroke: #0969da } .s1 { stroke: #d4860b } .s2 { stroke: #0f8a5f } .s3 { stroke: #8250df }
.d0 { fill: #0969da } .d1 { fill: #d4860b } .d2 { fill: #0f8a5f } .d3 { fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 }
.paper { fill: #0d1117 }
.title, .axis, .strong { fill: #e6edf3 }
.grid { stroke: #262c36 }
.base { stroke: #656c76 }
.dot { stroke: #0d1117 }
.advice, .ring { stroke: #e6edf3 }
.s0 { stroke: #58a6ff } .s1 { stroke: #f0b23e } .s2 { stroke: #3fd69a } .s3 { stroke: #bc8cff }
.d0 { fill: #58a6ff } .d1 { fill: #f0b23e } .d2 { fill: #3fd69a } .d3 { fill: #bc8cff }
}
</style>
)";

// 1234567 -> "1,234,567".
std::string grouped(std::size_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t i = digits.size(); i > 3;) digits.insert(i -= 3, ",");
  return digits;
}

// "0.25", "1.3", "130".
std::string short_number(double value) {
  return value >= 10 ? fmt::format("{:.0f}", value) : fmt::format("{:.2g}", value);
}

// The unit in which `bytes` are at least 10.
std::pair<std::string_view, double> unit_of(double bytes) {
  double size = 1024.0 * 1024 * 1024;
  for (const std::string_view name : {"GiB", "MiB", "KiB"}) {
    if (bytes >= 10 * size) return {name, size};
    size /= 1024;
  }
  return {"bytes", 1};
}

class CurvePicture {
 public:
  CurvePicture(const HitRateCurve& curve, const Trace& trace, const CurveCaption& caption);
  std::string draw() &&;

 private:
  template <class... Arguments>
  void add(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Arguments>(arguments)...);
  }
  double x(double capacity_blocks) const;
  double y(double hit_rate) const { return kBottom - (kBottom - kTop) * hit_rate / top_; }
  double share(std::size_t capacity_blocks) const {
    return static_cast<double>(capacity_blocks) / static_cast<double>(curve_.distinct_blocks);
  }
  // Where the values of `rate` are, as "x,y x,y ...".
  std::string path(const std::function<double(const CurvePoint&)>& rate) const;

  void add_heading();
  void add_legend();
  void add_rates();
  void add_sizes();
  void add_optimum();
  void add_policy(std::size_t policy);
  void add_advice();

  const HitRateCurve& curve_;
  const Trace& trace_;
  const CurveCaption& caption_;
  const bool has_bytes_;
  const double height_;
  double first_share_;  // at the left end
  double step_;         // from one line of the grid to the next
  double top_;          // hit rate at the upper end
  std::string svg_;
};

CurvePicture::CurvePicture(const HitRateCurve& curve, const Trace& trace, const CurveCaption& caption)
    : curve_(curve),
      trace_(trace),
      caption_(caption),
      has_bytes_(caption.block_bytes > 0),
      height_(kBottom + 62 + (has_bytes_ ? kTickRow : 0)),
      first_share_(std::min(share(curve.points.front().capacity_blocks), .5)) {
  const double highest = std::max(curve.unbounded_hit_rate, .001);
  for (const double step : {.0005, .001, .002, .005, .01, .02, .05, .1, .2}) {
    step_ = step;
    if (highest / step <= 7) break;
  }
  top_ = std::ceil(highest * 1.04 / step_) * step_;
}

double CurvePicture::x(double capacity_blocks) const {
  const double from_left = std::log(capacity_blocks / static_cast<double>(curve_.distinct_blocks) / first_share_);
  return kLeft + (kRight - kLeft) * from_left / -std::log(first_share_);
}

std::string CurvePicture::path(const std::function<double(const CurvePoint&)>& rate) const {
  std::string points;
  for (const CurvePoint& point : curve_.points) {
    points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", x(static_cast<double>(point.capacity_blocks)),
                          y(rate(point)));
  }
  return points;
}

void CurvePicture::add_heading() {
  add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n",
      kWidth, height_);
  const std::string subtitle =
      fmt::format("{} requests ask for {} blocks of {} tokens, {} of them distinct", grouped(trace_.requests.size()),
                  grouped(trace_.accesses), trace_.block_tokens, grouped(trace_.distinct_blocks));
  add("<title>{}</title>\n<desc>Hit rate by cache size. {}</desc>\n", xml_escaped(caption_.title), subtitle);
  svg_ += kStyle;
  add("<rect class=\"paper\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n", kWidth, height_);
  add("<text class=\"title\" x=\"{}\" y=\"36\">{}</text>\n", kLeft - 50, xml_escaped(caption_.title));
  add("<text x=\"{}\" y=\"58\">{}</text>\n", kLeft - 50, subtitle);
}

void CurvePicture::add_legend() {
  double left = kLeft;
  const auto entry = [&](std::string_view line_class, std::string_view dot_class, std::string_view name) {
    const double middle = kTop - 30;
    add("<line class=\"line {}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", line_class, left, middle, left + 26,
        middle);
    if (!dot_class.empty()) {
      add("<circle class=\"dot {}\" cx=\"{}\" cy=\"{}\" r=\"3.8\"/>\n", dot_class, left + 13, middle);
    }
    add("<text class=\"strong\" x=\"{}\" y=\"{}\">{}</text>\n", left + 33, middle + 4.5, xml_escaped(name));
    left += 33 + 26 + 7.2 * static_cast<double>(name.size());  // about the width of the text
  };
  for (std::size_t i = 0; i < curve_.policies.size(); ++i) {
    entry(fmt::format("s{}", i % kColours), fmt::format("d{}", i % kColours), curve_.policies[i]);
  }
  entry("optimum", "", "optimum, knowing the future");
}

void CurvePicture::add_rates() {
  for (int i = 0; i * step_ < top_ + step_ / 2; ++i) {
    const double height = y(i * step_);
    add("<line class=\"{}\" x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/>\n", i == 0 ? "base" : "grid", kLeft,
        height, kRight, height);
    add("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.{}f} %</text>\n", kLeft - 10, height + 4.5, 100 * i * step_,
        step_ < .001  ? 2
        : step_ < .01 ? 1
                      : 0);
  }
  add("<text class=\"axis\" transform=\"translate(22 {:.1f}) rotate(-90)\" text-anchor=\"middle\">"
      "Hit rate, blocks found of blocks asked for</text>\n",
      (kTop + kBottom) / 2);
}

void CurvePicture::add_sizes() {
  const double all_bytes = static_cast<double>(caption_.block_bytes) * static_cast<double>(curve_.distinct_blocks);
  const auto [unit, unit_bytes] = unit_of(all_bytes);
  const double row = kBottom + kTickRow;
  for (const double percent : {.2, .5, 1., 2., 5., 10., 20., 50., 100.}) {
    if (percent / 100 < first_share_ * .99) continue;
    const double place = x(percent / 100 * static_cast<double>(curve_.distinct_blocks));
    add("<line class=\"base\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>\n", place, kBottom, kBottom + 5);
    add("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g} %</text>\n", place, row, percent);
    if (!has_bytes_) continue;
    add("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", place, row + kTickRow,
        short_number(percent / 100 * all_bytes / unit_bytes));
  }
  if (has_bytes_) {
    add("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kLeft - 34, row + kTickRow, unit);
  }
  add("<text class=\"axis\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">"
      "Cache size, share of the {} distinct blocks of the trace{}; log scale</text>\n",
      (kLeft + kRight) / 2, height_ - 16, grouped(curve_.distinct_blocks), has_bytes_ ? ", and in bytes" : "");
}

void CurvePicture::add_optimum() {
  const std::string points = path([](const CurvePoint& point) { return point.optimum; });
  const double left = x(static_cast<double>(curve_.points.front().capacity_blocks));
  const double right = x(static_cast<double>(curve_.points.back().capacity_blocks));
  add("<polygon class=\"room\" points=\"{:.1f},{} {} {:.1f},{}\"/>\n", left, kBottom, points, right, kBottom);
  const double bound = y(curve_.unbounded_hit_rate);
  add("<line class=\"bound\" x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/>\n", kLeft, bound, kRight, bound);
  add("<text x=\"{}\" y=\"{:.1f}\">unbounded cache: {:.1f} %</text>\n", kLeft + 8, bound - 7,
      100 * curve_.unbounded_hit_rate);
  add("<polyline class=\"line optimum\" points=\"{}\"/>\n", points);
}

void CurvePicture::add_policy(std::size_t policy) {
  add("<polyline class=\"line s{}\" points=\"{}\"/>\n", policy % kColours,
      path([&](const CurvePoint& point) { return point.by_policy[policy]; }));
  for (const CurvePoint& point : curve_.points) {
    add("<circle class=\"dot d{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.8\"><title>{}, {} blocks ({:.3g} %): {:.2f} "
        "%</title>"
        "</circle>\n",
        policy % kColours, x(static_cast<double>(point.capacity_blocks)), y(point.by_policy[policy]),
        xml_escaped(curve_.policies[policy]), grouped(point.capacity_blocks), 100 * share(point.capacity_blocks),
        100 * point.by_policy[policy]);
  }
}

void CurvePicture::add_advice() {
  if (!curve_.advice) return;
  const double place = x(static_cast<double>(curve_.advice->capacity_blocks));
  const double height = y(curve_.advice->hit_rate);
  const bool text_on_left = place > (kLeft + kRight) / 2;
  add("<line class=\"advice\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2}\"/>\n", place, height + 7, kBottom);
  add("<circle class=\"ring\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"7\"/>\n", place, height);
  add("<text class=\"strong\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"{}\">{} blocks reach {:.0f} % of unbounded</text>\n",
      place + (text_on_left ? -9 : 9), kBottom - 12, text_on_left ? "end" : "start",
      grouped(curve_.advice->capacity_blocks), 100 * HitRateCurve::kGoodShare);
}

std::string CurvePicture::draw() && {
  add_heading();
  add_legend();
  add_rates();
  add_sizes();
  add_optimum();
  for (std::size_t policy = 0; policy < curve_.policies.size(); ++policy) add_policy(policy);
  add_advice();
  svg_ += "</svg>\n";
  return std::move(svg_);
}

}  // namespace

std::string xml_escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '&': result += "&amp;"; break;
      case '"': result += "&quot;"; break;
      default: result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;  // control characters are no XML
    }
  }
  return result;
}

std::string curve_svg(const HitRateCurve& curve, const Trace& trace, const CurveCaption& caption) {
  return CurvePicture(curve, trace, caption).draw();
}

}  // namespace tiercel
