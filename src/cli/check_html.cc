// The page of tiercel check --html: everything in one file, no script, for light and dark backgrounds.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "cli/check_report.h"
#include "cli/percentile.h"
#include "replay/curve_svg.h"

namespace tiercel::cli {
namespace {

constexpr std::string_view kStyle = R"(<style>
:root { --paper: #ffffff; --ink: #1f2328; --faint: #57606a; --line: #d8dee4; --good: #0f8a5f; --bad: #cf222e;
  --s0: #8c959f; --s1: #0969da; --s2: #d4860b; --s3: #0f8a5f }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --line: #30363d;
  --good: #3fd69a; --bad: #ff7b72; --s0: #8c959f; --s1: #58a6ff; --s2: #f0b23e; --s3: #3fd69a } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } p { color: var(--faint); margin: .2rem 0 }
table { border-collapse: collapse; width: 100% } th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
th { color: var(--faint); font-weight: 600; text-align: right } td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, .left { text-align: left; white-space: normal }
.pass { color: var(--good); font-weight: 600 } .fail { color: var(--bad); font-weight: 600 }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: var(--faint) }
.grid { stroke: var(--line) } .axis { stroke: var(--faint) } .mark { stroke: var(--ink); stroke-dasharray: 3 3 }
.f0 { fill: var(--s0) } .f1 { fill: var(--s1) } .f2 { fill: var(--s2) } .f3 { fill: var(--s3) }
</style>
)";

template <class... Arguments>
void add(std::string& text, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Arguments>(arguments)...);
}

// A frame with two axes; values become places.
class Plot {
 public:
  struct Axis {
    double least, most;
    bool logarithmic;
    double share(double value) const {
      if (logarithmic) return std::log(std::max(value, least) / least) / std::log(most / least);
      return (value - least) / (most - least);
    }
  };
  static constexpr double kLeft = 60, kRight = 880, kTop = 34;

  Plot(Axis x, Axis y, double height) : x_(x), y_(y), bottom_(height - 44) {
    add(svg_, "<svg viewBox=\"0 0 900 {}\" role=\"img\">\n", height);
  }

  double x(double value) const { return kLeft + (kRight - kLeft) * std::clamp(x_.share(value), 0., 1.); }
  double y(double value) const { return bottom_ - (bottom_ - kTop) * std::clamp(y_.share(value), 0., 1.); }
  double bottom() const { return bottom_; }
  std::string& svg() { return svg_; }

  // Lines and labels at round values, and what the axes are.
  void add_axes(std::string_view x_title, std::string_view y_title) {
    for (const double value : ticks(y_)) {
      add(svg_, "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>", kLeft, kRight, y(value));
      add(svg_, "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n", kLeft - 8, y(value) + 4, value);
    }
    for (const double value : ticks(x_)) {
      add(svg_, "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>", x(value), bottom_,
          bottom_ + 5);
      add(svg_, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", x(value), bottom_ + 19, value);
    }
    add(svg_, "<line class=\"axis\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/>\n", kLeft, kRight, bottom_);
    add(svg_, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kRight, bottom_ + 38, x_title);
    add(svg_, "<text x=\"0\" y=\"14\">{}</text>\n", y_title);
  }

  std::string close() && { return std::move(svg_) + "</svg>\n"; }

 private:
  static std::vector<double> ticks(const Axis& axis) {
    std::vector<double> values;
    if (axis.logarithmic) {
      for (double decade = std::pow(10, std::floor(std::log10(axis.least))); decade <= axis.most; decade *= 10) {
        for (const double factor : {1., 2., 5.}) {
          if (decade * factor >= axis.least && decade * factor <= axis.most) values.push_back(decade * factor);
        }
      }
      return values;
    }
    const double rough = (axis.most - axis.least) / 6;
    const double decade = std::pow(10, std::floor(std::log10(rough)));
    const double step = decade * (rough / decade > 5 ? 10 : rough / decade > 2 ? 5 : rough / decade > 1 ? 2 : 1);
    for (double value = axis.least; value <= axis.most + step / 1000; value += step) values.push_back(value);
    return values;
  }

  const Axis x_;
  const Axis y_;
  const double bottom_;
  std::string svg_;
};

// Of all answered requests, with room at both ends.
Plot::Axis latency_axis(const CheckReport& report) {
  Plot::Axis axis{1e9, 1e-9, true};
  for (const PhaseRecord& phase : report.phases) {
    for (const double latency_ms : phase.latencies_ms()) {
      axis.least = std::min(axis.least, std::max(latency_ms, 1e-3));
      axis.most = std::max(axis.most, latency_ms);
    }
  }
  if (axis.least > axis.most) return {1, 1000, true};
  axis.least /= 1.3, axis.most *= 1.3;
  return axis;
}

std::string legend(const CheckReport& report) {
  std::string html = "<p>";
  for (std::size_t i = 0; i < report.phases.size(); ++i) {
    add(html,
        "<svg style=\"width:.8em;height:.8em\" viewBox=\"0 0 10 10\"><rect class=\"f{}\" width=\"10\" height=\"10\" "
        "rx=\"2\"/></svg> {} &ensp; ",
        i % 4, report.phases[i].name);
  }
  return html + "</p>\n";
}

// Each phase in a row of its own: share of its requests by latency.
std::string histogram(const CheckReport& report) {
  constexpr std::size_t kBins = 60;
  const Plot::Axis latency = latency_axis(report);
  std::vector<std::vector<double>> shares;
  double highest = .01;
  for (const PhaseRecord& phase : report.phases) {
    std::vector<double>& bins = shares.emplace_back(kBins, 0.);
    const auto latencies_ms = phase.latencies_ms();
    for (const double latency_ms : latencies_ms) {
      const auto bin = static_cast<std::size_t>(latency.share(latency_ms) * kBins);
      bins[std::min(bin, kBins - 1)] += 100. / static_cast<double>(latencies_ms.size());
    }
    highest = std::max(highest, std::ranges::max(bins));
  }
  Plot plot(latency, {0, highest * 1.05, false}, 330);
  plot.add_axes("latency, ms (log scale)", "% of the requests of each phase");
  const double width = (Plot::kRight - Plot::kLeft) / kBins;
  for (std::size_t phase = 0; phase < shares.size(); ++phase) {
    for (std::size_t bin = 0; bin < kBins; ++bin) {
      if (shares[phase][bin] == 0) continue;
      const double top = plot.y(shares[phase][bin]);
      add(plot.svg(),
          "<rect class=\"f{}\" fill-opacity=\".6\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
          phase % 4, Plot::kLeft + width * static_cast<double>(bin) + .5, top, width - 1, plot.bottom() - top);
    }
  }
  const auto alone_ms = report.phase("alone").latencies_ms();
  double label_y = Plot::kTop;
  for (const int percent : {50, 95, 99}) {
    const double value = percentile(alone_ms, percent / 100.);
    add(plot.svg(), "<line class=\"mark\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>", plot.x(value),
        label_y - 8, plot.bottom());
    add(plot.svg(), "<text x=\"{:.1f}\" y=\"{:.1f}\">P{} alone, {:.0f} ms</text>\n", plot.x(value) + 5, label_y,
        percent, value);
    label_y += 15;
  }
  return std::move(plot).close();
}

// Every request where it began, as high as it took; and how many were answered in each second.
std::string timeline(const CheckReport& report) {
  const double end_s = std::max(report.phases.back().end_s, 1e-3);
  Plot latency({0, end_s, false}, latency_axis(report), 300);
  latency.add_axes("seconds since the load began", "latency of each request, ms (log scale)");
  std::vector<std::vector<double>> answered(report.phases.size(),
                                            std::vector<double>(static_cast<std::size_t>(end_s) + 2));
  double most = 1;
  for (std::size_t i = 0; i < report.phases.size(); ++i) {
    for (const RequestRecord& request : report.phases[i].requests) {
      if (request.code != StatusCode::Ok) continue;
      add(latency.svg(), "<circle class=\"f{}\" fill-opacity=\".55\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.2\"/>\n", i % 4,
          latency.x(request.start_s), latency.y(request.total_ms));
      double& count = answered[i][static_cast<std::size_t>(request.start_s + request.total_ms / 1e3)];
      most = std::max(most, count += 1);
    }
  }
  Plot rate({0, end_s, false}, {0, most * 1.05, false}, 200);
  rate.add_axes("seconds since the load began", "requests answered in each second");
  for (std::size_t i = 0; i < answered.size(); ++i) {
    for (std::size_t second = 0; second < answered[i].size(); ++second) {
      if (answered[i][second] == 0) continue;
      const double left = rate.x(static_cast<double>(second)), right = rate.x(static_cast<double>(second + 1));
      const double top = rate.y(answered[i][second]);
      add(rate.svg(),
          "<rect class=\"f{}\" fill-opacity=\".7\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
          i % 4, left, top, std::max(1., right - left - 1), rate.bottom() - top);
    }
  }
  return std::move(latency).close() + std::move(rate).close();
}

std::string rows_table(const CheckReport& report) {
  std::string html =
      "<table><tr><th></th><th>target</th><th>measured</th><th>baseline</th><th>change</th><th></th>"
      "<th class=\"left\">bottleneck; what to change</th></tr>\n";
  for (const CheckRow& row : report.rows) {
    const auto change = row.change();
    add(html,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"{}\">{}</td><td "
        "class=\"left\">{}</td></tr>\n",
        row.metric.title, target_of(row), with_unit(row.metric, row.value),
        row.baseline ? with_unit(row.metric, *row.baseline) : "", change ? fmt::format("{:+.0f} %", 100 * *change) : "",
        row.passed ? "pass" : "fail", row.passed ? "pass" : "FAIL",
        row.passed ? "" : fmt::format("{}; {}", to_string(row.bottleneck), xml_escaped(row.advice)));
  }
  return html + "</table>\n";
}

std::string phases_table(const CheckReport& report) {
  std::string html =
      "<table><tr><th>phase</th><th class=\"left\">what was asked for</th><th>requests</th><th>tokens in, out</th>"
      "<th>reused</th><th>P50, P95, P99 ms</th><th>per s</th></tr>\n";
  for (const PhaseRecord& phase : report.phases) {
    const auto latencies_ms = phase.latencies_ms();
    add(html,
        "<tr><td>{}</td><td class=\"left\">{}</td><td>{}</td><td>{:.0f}, {:.0f}</td><td>{:.0f} %</td>"
        "<td>{:.0f}, {:.0f}, {:.0f}</td><td>{:.1f}</td></tr>\n",
        phase.name, xml_escaped(phase.work), phase.requests.size(), phase.mean_tokens(&RequestRecord::prompt_tokens),
        phase.mean_tokens(&RequestRecord::output_tokens), 100 * phase.hit_rate(), percentile(latencies_ms, .5),
        percentile(latencies_ms, .95), percentile(latencies_ms, .99), phase.requests_per_s());
  }
  return html + "</table>\n";
}

}  // namespace

std::string to_html(const CheckReport& report) {
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>tiercel check</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n";
  html += kStyle;
  add(html, "</head><body>\n<h1>Profile {}: <span class=\"{}\">{}</span></h1>\n", xml_escaped(report.profile),
      report.passed() ? "pass" : "fail", report.passed() ? "passed" : "not passed");
  add(html, "<p>{}; {}, {}, {} threads; at most {} of {} of memory</p>\n", xml_escaped(report.info.model_name),
      xml_escaped(report.info.cpu), report.info.simd, report.info.threads, readable_bytes(report.peak_resident_bytes),
      readable_bytes(report.memory_bytes));
  add(html, "<h2>Targets</h2>\n{}<p>Baseline: {}</p>\n", rows_table(report), xml_escaped(report.baseline));
  add(html, "<h2>The load</h2>\n{}", phases_table(report));
  add(html, "<h2>Latency</h2>\n{}{}", legend(report), histogram(report));
  add(html, "<h2>Timeline</h2>\n{}{}</body></html>\n", legend(report), timeline(report));
  return html;
}

}  // namespace tiercel::cli
