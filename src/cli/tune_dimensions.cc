#include "cli/tune_dimensions.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "options/option_table.h"

namespace tiercel::cli {

std::vector<TuneDimension> tune_dimensions(const EngineOptions& start, std::size_t cores, bool is_alone) {
  const EngineOptions defaults;
  const auto numbers = [](std::string key, const std::vector<std::size_t>& values) {
    TuneDimension dimension{.keys = {std::move(key)}, .values = {}};
    for (const std::size_t value : values) dimension.values.push_back({fmt::format("{}", value)});
    return dimension;
  };
  const std::size_t capacity = start.cache.capacity_bytes, usual = defaults.cache.capacity_bytes;
  const std::size_t larger = std::max(capacity, usual);
  const std::string half = fmt::format("{}", larger / 2), quarter = fmt::format("{}", larger / 4);
  std::vector<std::size_t> threads = {0, std::max<std::size_t>(1, cores / 2)};  // one per core; half of them
  if (cores > 2) threads.push_back(cores - 1);
  // Several options may be in each other's way: no change of one alone would show.
  TuneDimension all{.keys = {}, .values = {{}}, .name = "the defaults of all that is tried"};
  for (const char* key :
       {"threads", "cache.capacity_bytes", "max_batch_tokens", "max_batch_sequences", "target_step_ms"}) {
    all.keys.push_back(key);
    all.values[0].push_back(*find_option(key)->text(defaults));
  }
  std::vector<TuneDimension> dimensions = {
      std::move(all),
      numbers("threads", threads),
      numbers("cache.capacity_bytes", {usual, larger * 4, larger / 4, larger / 16}),
      numbers("max_batch_tokens", {defaults.max_batch_tokens, 256, 4096}),
  };
  if (is_alone) return dimensions;
  dimensions.push_back(numbers("max_batch_sequences", {defaults.max_batch_sequences, 32, 8}));
  dimensions.push_back(numbers("target_step_ms", {0, 50, 200}));
  // A part of the memory for KV as a compressed tier.
  dimensions.push_back({.keys = {"cache.capacity_bytes", "cache.memory_tier_bytes", "cache.memory_tier_codec"},
                        .values = {{half, half, "lossless"}, {half, half, "int8"}, {quarter, quarter, "int4"}}});
  return dimensions;
}

}  // namespace tiercel::cli
