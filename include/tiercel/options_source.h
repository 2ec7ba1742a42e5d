// Engine options from a file, from the environment, or by name.
//
//   auto options = tiercel::load_options("engine.toml");
//   if (options.ok()) status = tiercel::apply_environment(*options);
//   auto engine = tiercel::Engine::open(*options);
//
// What comes later goes before what came earlier; the program `tiercel` takes code, file, environment, command line.
//
// Names are those of the members: `threads` of EngineOptions, `cache.capacity_bytes` of its KvCacheOptions. In a file
// the latter stands under [cache] (TOML) or in an object "cache" (JSON); in the environment it is
// TIERCEL_CACHE_CAPACITY_BYTES. Units are the members' own, last in the name. Sizes are bytes, or text such as "512M"
// or "8GiB" (powers of 1024). Enums and eviction policies go by name ("lossless", "lru"), lists as lists in a file and
// with commas elsewhere ("0,1"), yes or no as true or false. KvCacheOptions::tiers comes from code alone.
//
// A name that does not exist, a value out of range, a key given twice: InvalidArgument, with file and line or variable,
// key, value, what to give, and the name that was probably meant. Nothing is half applied.
//
// Thread-safety: every function may be called from any thread, while nobody changes the environment.
#pragma once

#include <string>
#include <string_view>

#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel {

// `base` with what the file says: TOML where its name ends in .toml, JSON where it ends in .json; at most 16 KiB.
//   NotFound, Unavailable    there is no such file, or it cannot be read
//   InvalidArgument          it cannot be used, see above
Result<EngineOptions> load_options(const std::string& path, EngineOptions base = {});

// Sets what TIERCEL_... variables say; an empty one says nothing. A variable that names no option is refused, apart
// from those with another meaning: TIERCEL_CACHE_DIR (where ./quickstart keeps its downloads; the directory for KV is
// TIERCEL_CACHE_DISK_DIR), TIERCEL_LOG, and what Kubernetes sets beside a service of this name (TIERCEL_SERVICE_...,
// TIERCEL_PORT...).
Status apply_environment(EngineOptions& options);

// Sets the option with this name: set_option(options, "cache.capacity_bytes", "8GiB").
Status set_option(EngineOptions& options, std::string_view key, std::string_view text);

// Writes what is not as it is by default, for load_options(); replaces a file of that name in one step.
//   InvalidArgument          a name that ends in neither .toml nor .json; a value that only code can give: tiers, an
//                            eviction policy of your own, text that is no UTF-8
//   Unavailable              it cannot be written
Status save_options(const EngineOptions& options, const std::string& path);

}  // namespace tiercel
