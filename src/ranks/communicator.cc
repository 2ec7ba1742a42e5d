#include "ranks/communicator.h"

#include <algorithm>
#include <functional>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tiercel {

Status check_group(const std::vector<std::uint32_t>& ranks, std::uint32_t rank, std::uint32_t size) {
  const bool is_ascending = std::ranges::adjacent_find(ranks, std::greater_equal()) == ranks.end();
  const bool is_in = std::ranges::find(ranks, rank) != ranks.end();
  if (is_in && is_ascending && ranks.back() < size) return {};
  return Status::invalid_argument(
      fmt::format("{} are no ascending ranks of 0 to {}, with rank {} among them", ranks, size - 1, rank));
}

}  // namespace tiercel
