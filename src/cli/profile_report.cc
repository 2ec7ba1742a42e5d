#include "cli/profile_report.h"

#include <algorithm>

#include <fmt/format.h>

namespace tiercel::cli {

std::vector<PartTime> spent_between(const std::vector<PartTime>& before, const std::vector<PartTime>& after) {
  std::vector<PartTime> spent = after;
  for (PartTime& part : spent) {
    const auto earlier = std::ranges::find(before, part.name, &PartTime::name);
    if (earlier == before.end()) continue;
    part.seconds -= earlier->seconds;
    part.bound_s -= earlier->bound_s;
  }
  return spent;
}

Json to_json(const std::vector<PartTime>& parts) {
  Json json = Json::object();
  for (const PartTime& part : parts) json[part.name] = {{"seconds", part.seconds}, {"bound_s", part.bound_s}};
  return json;
}

std::string profile_table(const std::vector<PartTime>& parts, const EngineInfo& info) {
  double total_s = 0;
  for (const PartTime& part : parts) total_s += part.seconds;
  std::string table = fmt::format("  {:<18}{:>10}{:>8}{:>11}{:>9}\n", "part", "ms", "share", "bound ms", "reached");
  for (const PartTime& part : parts) {
    if (part.seconds <= 0) continue;
    const auto kernel = std::ranges::find(info.linear_kernels, part.name, &std::pair<std::string, std::string>::first);
    table += fmt::format("  {:<18}{:>10.2f}{:>7.1f}%", part.name, part.seconds * 1e3, 100 * part.seconds / total_s);
    table += part.bound_s > 0 ? fmt::format("{:>11.2f}{:>8.0f}%", part.bound_s * 1e3, 100 * part.bound_s / part.seconds)
                              : fmt::format("{:>20}", "");
    table += kernel == info.linear_kernels.end() ? "\n" : "   " + kernel->second + "\n";
  }
  return table;
}

}  // namespace tiercel::cli
