#include "tiercel/options_source.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "options/option_table.h"
#include "options/options_text.h"
#include "options/suggestion.h"
#include "tests/base/temporary_directory.h"

namespace tiercel {
namespace {

const bool kWriteGolden = std::getenv("TIERCEL_WRITE_GOLDEN") != nullptr;  // before tests clear the environment

// For every option a value that it does not have by default, as it is printed.
const std::map<std::string, std::string>& other_values() {
  static const std::map<std::string, std::string> values = {
      {"model", "a \"b\"\\\t\x7f \xc3\xa9.gguf"},
      {"device", "cuda:3"},
      {"compute", "precise"},
      {"deterministic", "true"},
      {"replicas", "5"},
      {"threads", "3"},
      {"cpus", "0,2,4095"},
      {"context_tokens", "777"},
      {"max_batch_sequences", "4"},
      {"max_batch_tokens", "64"},
      {"max_queued_requests", "4294967295"},
      {"target_step_ms", "0.1"},
      {"speculation", "false"},
      {"max_draft_tokens", "64"},
      {"aging_ms", "18446744073709551615"},
      {"memory_limit_bytes", "3GiB"},
      {"stats_window_ms", "61"},
      {"profile_steps", "true"},
      {"ranks.size", "6"},
      {"ranks.pipeline", "3"},
      {"ranks.rank", "2"},
      {"ranks.address", "host:29500"},
      {"ranks.transport", "gloo"},
      {"ranks.timeout_ms", "1"},
      {"ranks.open_timeout_ms", "2"},
      {"cache.capacity_bytes", "1000001"},
      {"cache.prefault_bytes", "1000002"},
      {"cache.block_tokens", "128"},
      {"cache.kv_dtype", "int8"},
      {"cache.prefix_reuse", "false"},
      {"cache.eviction", "lfu"},
      {"cache.tenant_quota_bytes", "18446744073709551615"},
      {"cache.record_trace", "t.jsonl"},
      {"cache.memory_tier_bytes", "5TiB"},
      {"cache.memory_tier_codec", "int4"},
      {"cache.disk_dir", "kv dir"},
      {"cache.disk_capacity_bytes", "0"},
      {"cache.disk_codec", "int8"},
      {"cache.tier_writes", "twice"},
      {"cache.tier_deadline_ms", "7"},
  };
  return values;
}

// Every member of both structs has a row, and the other way round. A new member does not compile here until it is
// named, and fails until it has a row (or is one of the two that come otherwise).
TEST(OptionTable, HasEveryMemberOfTheStructs) {
  EngineOptions options;
  auto& [model, cache, device, compute, deterministic, replicas, threads, context_tokens, max_batch_sequences,
         max_batch_tokens, max_queued_requests, target_step_ms, speculation, max_draft_tokens, aging_ms,
         memory_limit_bytes, stats_window_ms, profile_steps, ranks, cpus] = options;
  auto& [rank_count, pipeline, rank, address, transport, timeout_ms, open_timeout_ms] = ranks;
  auto& [capacity_bytes, prefault_bytes, block_tokens, kv_dtype, prefix_reuse, eviction, tenant_quota_bytes,
         record_trace, memory_tier_bytes, memory_tier_codec, disk_dir, disk_capacity_bytes, disk_codec, tiers,
         tier_writes, tier_deadline_ms] = cache;
  static_cast<void>(tiers);  // from code alone
  const std::set<const void*> members = {&model,
                                         &device,
                                         &compute,
                                         &deterministic,
                                         &replicas,
                                         &threads,
                                         &context_tokens,
                                         &max_batch_sequences,
                                         &max_batch_tokens,
                                         &max_queued_requests,
                                         &target_step_ms,
                                         &speculation,
                                         &max_draft_tokens,
                                         &aging_ms,
                                         &memory_limit_bytes,
                                         &stats_window_ms,
                                         &profile_steps,
                                         &rank_count,
                                         &pipeline,
                                         &rank,
                                         &address,
                                         &transport,
                                         &timeout_ms,
                                         &open_timeout_ms,
                                         &cpus,
                                         &capacity_bytes,
                                         &prefault_bytes,
                                         &block_tokens,
                                         &kv_dtype,
                                         &prefix_reuse,
                                         &eviction,
                                         &tenant_quota_bytes,
                                         &record_trace,
                                         &memory_tier_bytes,
                                         &memory_tier_codec,
                                         &disk_dir,
                                         &disk_capacity_bytes,
                                         &disk_codec,
                                         &tier_writes,
                                         &tier_deadline_ms};
  std::set<const void*> rows;
  std::set<std::string_view> keys, flags;
  for (const OptionField& field : option_fields()) {
    rows.insert(std::visit([&](auto member) -> const void* { return &member(options); }, field.member));
    keys.insert(field.key);
    flags.insert(field.flag);
    EXPECT_FALSE(field.help.empty() || field.range.empty()) << field.key;
    EXPECT_TRUE(other_values().contains(std::string(field.key))) << field.key;
  }
  EXPECT_EQ(rows, members);
  EXPECT_EQ(keys.size(), option_fields().size());
  EXPECT_EQ(flags.size(), option_fields().size());
}

TEST(OptionTable, IsInTheDocumentRowByRow) {
  std::ifstream stream(TIERCEL_TEST_DATA "/../../docs/options.md", std::ios::binary);
  const std::string document(std::istreambuf_iterator<char>(stream), {});
  for (const OptionField& field : option_fields()) {
    std::string row = "| `" + std::string(field.key) + "` | `TIERCEL_";
    for (const char c : field.key) row += c == '.' ? '_' : static_cast<char>(std::toupper(c));
    row += "` | `" + std::string(field.flag) + (field.metavar.empty() ? "" : " ") + std::string(field.metavar) + "` | ";
    EXPECT_NE(document.find(row + std::string(field.help) + " |"), std::string::npos) << row;
  }
}

class OptionsSource : public ::testing::Test {
 protected:
  void SetUp() override { clear_environment(); }
  void TearDown() override { clear_environment(); }

  static void clear_environment() {
    std::vector<std::string> names;
    for (char** entry = environ; *entry; ++entry) {
      const std::string_view variable = *entry;
      if (variable.starts_with("TIERCEL_")) names.emplace_back(variable.substr(0, variable.find('=')));
    }
    for (const std::string& name : names) ::unsetenv(name.c_str());
  }

  std::string file(const std::string& name, const std::string& text) const {
    const std::string path = folder_.path() + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  // What load_options() says of this text, without the folder.
  std::string refusal(const std::string& name, const std::string& text) const {
    const auto options = load_options(file(name, text));
    if (options.ok()) return "ok";
    EXPECT_EQ(options.status().code(), StatusCode::InvalidArgument);
    const std::string message = options.status().message();
    return message.starts_with(folder_.path()) ? message.substr(folder_.path().size() + 1) : message;
  }

  TemporaryDirectory folder_;
};

TEST_F(OptionsSource, EveryFieldComesBackFromEachFormatAndTheEnvironment) {
  for (const auto& [key, value] : other_values()) {
    EngineOptions options;
    ASSERT_TRUE(set_option(options, key, value).ok()) << key;
    const OptionField& field = *find_option(key);
    EXPECT_EQ(field.text(options), value) << key;
    EXPECT_FALSE(field.is_default(options)) << key;
    for (const char* name : {"/o.toml", "/o.json"}) {
      const std::string path = folder_.path() + name;
      ASSERT_TRUE(save_options(options, path).ok()) << key << save_options(options, path).to_string();
      const auto loaded = load_options(path);
      ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
      for (const OptionField& other : option_fields()) {
        EXPECT_EQ(other.text(*loaded), other.text(options)) << key << " " << other.key << " " << name;
      }
    }
    std::string variable = "TIERCEL_" + key;
    std::ranges::transform(variable, variable.begin(), [](char c) { return c == '.' ? '_' : std::toupper(c); });
    ::setenv(variable.c_str(), value.c_str(), 1);
    EngineOptions from_environment;
    ASSERT_TRUE(apply_environment(from_environment).ok()) << variable;
    EXPECT_EQ(field.text(from_environment), value) << variable;
    ::unsetenv(variable.c_str());
  }
}

TEST_F(OptionsSource, AllAtOnceIsWrittenAsInTheGoldenFiles) {
  EngineOptions options;
  for (const auto& [key, value] : other_values()) ASSERT_TRUE(set_option(options, key, value).ok()) << key;
  for (const char* name : {"options.toml", "options.json", "options_all.toml"}) {
    const std::string golden = std::string(TIERCEL_TEST_DATA "/") + name;
    const auto text = std::string(name) == "options_all.toml" ? format_toml({}, OptionsShown::All)
                      : golden.ends_with("toml")              ? format_toml(options)
                                                              : format_json(options);
    ASSERT_TRUE(text.ok());
    if (kWriteGolden) std::ofstream(golden, std::ios::binary) << *text;
    std::ifstream stream(golden, std::ios::binary);
    EXPECT_EQ(*text, std::string(std::istreambuf_iterator<char>(stream), {})) << golden;
    const auto loaded = load_options(golden);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    const EngineOptions& expected = std::string(name) == "options_all.toml" ? EngineOptions() : options;
    for (const OptionField& field : option_fields()) EXPECT_EQ(field.text(*loaded), field.text(expected)) << field.key;
  }
}

TEST_F(OptionsSource, PeopleWriteFilesInTheirOwnWay) {
  const auto toml = load_options(file("a.toml",
                                      "threads = 2   # both\n"
                                      "cache.block_tokens = 0x10\n"
                                      "cpus = [0,\n 1]\n"
                                      "target_step_ms = 1e2\n"
                                      "[cache]\n"
                                      "capacity_bytes = \"8g\"\n"));
  EXPECT_FALSE(toml.ok());  // TOML: [cache] is there already
  const auto good =
      load_options(file("b.toml",
                        "threads = 2   # both\r\ncpus = [0,\n 1]\ntarget_step_ms = 100\n"
                        "cache = { capacity_bytes = '8g', block_tokens = 0x10, prefix_reuse = false }\n"));
  ASSERT_TRUE(good.ok()) << good.status().to_string();
  EXPECT_EQ(good->threads, 2u);
  EXPECT_EQ(good->cpus, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(good->target_step_ms, 100);
  EXPECT_EQ(good->cache.capacity_bytes, std::size_t{8} << 30);
  EXPECT_EQ(good->cache.block_tokens, 16u);
  EXPECT_FALSE(good->cache.prefix_reuse);
  const auto json = load_options(
      file("c.json", "{\"cache\": {\"disk_dir\": \"kv\"}, \"cache.disk_codec\": \"int4\", \"target_step_ms\": 1.5e1}"));
  ASSERT_TRUE(json.ok()) << json.status().to_string();
  EXPECT_EQ(json->cache.disk_dir, "kv");
  EXPECT_EQ(json->cache.disk_codec, Codec::Int4);
  EXPECT_EQ(json->target_step_ms, 15);
}

TEST_F(OptionsSource, LaterSourcesGoFirst) {
  EngineOptions code;
  code.model = "code.gguf", code.threads = 1, code.max_batch_tokens = 256, code.aging_ms = 5;
  auto options = load_options(file("o.toml", "threads = 2\nmax_batch_tokens = 512\n"), code);
  ASSERT_TRUE(options.ok());
  ::setenv("TIERCEL_THREADS", "3", 1);
  ::setenv("TIERCEL_MODEL", "", 1);  // says nothing
  ASSERT_TRUE(apply_environment(*options).ok());
  EXPECT_EQ(options->model, "code.gguf");
  EXPECT_EQ(options->threads, 3u);
  EXPECT_EQ(options->max_batch_tokens, 512u);
  EXPECT_EQ(options->aging_ms, 5u);
}

TEST_F(OptionsSource, WhatIsWrongIsNamedWithItsPlaceAndWhatWouldBeRight) {
  const std::pair<const char*, const char*> toml[] = {
      {"threads = 2\n[cache]\ncapacity_byte = 5\n",
       "o.toml:3: cache.capacity_byte is no option; did you mean cache.capacity_bytes?"},
      {"thread = 2\n", "o.toml:1: thread is no option; did you mean threads?"},
      {"disk_dir = 'kv'\n", "o.toml:1: disk_dir is no option; did you mean cache.disk_dir?"},
      {"[cach]\ndisk_dir = 'kv'\n", "o.toml:2: cach.disk_dir is no option; did you mean cache.disk_dir?"},
      {"frobnicate = 1\n", "o.toml:1: frobnicate is no option"},
      {"\n\nthreads = 257\n", "o.toml:3: threads is 257; give 0 (one per core) to 256"},
      {"threads = -1\n", "o.toml:1: threads is -1; give 0 (one per core) to 256"},
      {"threads = 1.5\n", "o.toml:1: threads is 1.5; give 0 (one per core) to 256"},
      {"threads = true\n", "o.toml:1: threads is true; give 0 (one per core) to 256"},
      {"threads = []\n", "o.toml:1: threads is empty; give 0 (one per core) to 256"},
      {"threads = 2020-01-01\n", "o.toml:1: threads is 2020-01-01; give 0 (one per core) to 256"},
      {"target_step_ms = nan\n", "o.toml:1: target_step_ms is nan; give 0 (automatic) or a finite number above it"},
      {"model = 5\n", "o.toml:1: model is 5; give the path of a GGUF file, in quotes"},
      {"compute = 'slow'\n", "o.toml:1: compute is slow; give fast, precise or turbo"},
      {"deterministic = 'yes'\n", "o.toml:1: deterministic is yes; give true or false"},
      {"cpus = [0, 4096]\n", "o.toml:1: cpus is 0,4096; give a list of cores from 0 to 4095"},
      {"cpus = [0, [1]]\n", "o.toml:1: cpus is 0,[ 1 ]; give a list of cores from 0 to 4095"},
      {"cache = 5\n", "o.toml:1: cache is no option"},
      {"[cache]\ncapacity_bytes = '8 apples'\n",
       "o.toml:2: cache.capacity_bytes is 8 apples; give a size such as 2GiB, at least one block"},
      {"[cache]\neviction = 'random'\n", "o.toml:2: cache.eviction is random; give adaptive, lru or lfu"},
      {"[cache]\ntiers = []\n", "o.toml:2: cache.tiers comes from code alone"},
      {"[cache.disk_dir]\nx = 1\n", "o.toml:1: cache.disk_dir is a table; give the path of a directory, in quotes"},
  };
  for (const auto& [text, message] : toml) EXPECT_EQ(refusal("o.toml", text), message) << text;
  const std::pair<const char*, const char*> json[] = {
      {"{\n \"threads\": 2,\n \"cache\": {\n  \"capacity_byte\": 5}}",
       "o.json:4: cache.capacity_byte is no option; did you mean cache.capacity_bytes?"},
      {"{\"threads\":\n 257\n}", "o.json:1: threads is 257; give 0 (one per core) to 256"},
      {"{\"threads\": null}", "o.json:1: threads is null; give 0 (one per core) to 256"},
      {"{\"threads\": 1,\n\"threads\": 2}", "o.json:2: threads is given in line 1 already"},
      {"{\"cpus\": [{}]}", "o.json:1: cpus is a list of objects; no option is"},
      {"{\"cpus\": [[1]]}", "o.json:1: cpus is a list of lists; no option is"},
      {"{\"cache\": {\"disk_dir\": {}}}", "o.json:1: cache.disk_dir is an object; no option is"},
      {"[]", "o.json:1: not an object of options"},
      {"5", "o.json:1: not an object of options"},
  };
  for (const auto& [text, message] : json) EXPECT_EQ(refusal("o.json", text), message) << text;
  EXPECT_TRUE(refusal("o.toml", "threads = 1\nthreads = 2\n").starts_with("o.toml:2: ")) << refusal("o.toml", "");
  EXPECT_TRUE(refusal("o.toml", "threads = 1\nmodel = 'x\n").starts_with("o.toml:2: "));
  EXPECT_TRUE(refusal("o.json", "{\"threads\": 1,\n x}").starts_with("o.json:2: ")) << refusal("o.json", "{\n x}");
  EXPECT_NE(refusal("o.yaml", "threads: 1").find("o.yaml ends in neither .toml nor .json"), std::string::npos);
  EXPECT_NE(refusal("o.toml", std::string(20'000, '#')).find("more than 16384 bytes"), std::string::npos);
  EXPECT_EQ(load_options(folder_.path() + "/none.toml").status().code(), StatusCode::NotFound);
  EXPECT_EQ(load_options(folder_.path() + "/").status().code(), StatusCode::InvalidArgument);
}

TEST_F(OptionsSource, TheEnvironmentIsReadAsAWhole) {
  const auto refusal_of = [](const char* name, const char* value) {
    ::setenv(name, value, 1);
    EngineOptions options;
    options.threads = 9;
    ::setenv("TIERCEL_THREADS", "1", 1);
    const Status status = apply_environment(options);
    EXPECT_EQ(options.threads, status.ok() ? 1u : 9u) << "half applied";
    ::unsetenv(name);
    return status.message();
  };
  EXPECT_EQ(refusal_of("TIERCEL_CACHE_CAPACITY_BYTE", "5"),
            "TIERCEL_CACHE_CAPACITY_BYTE in the environment is no option; did you mean TIERCEL_CACHE_CAPACITY_BYTES?");
  EXPECT_EQ(refusal_of("TIERCEL_XYZZY", "5"), "TIERCEL_XYZZY in the environment is no option");
  EXPECT_EQ(refusal_of("TIERCEL_MAX_BATCH_TOKENS", "many"), "TIERCEL_MAX_BATCH_TOKENS is many; give 32 to 65536");
  EXPECT_EQ(refusal_of("TIERCEL_CACHE_DIR", "/downloads"), "");
  EXPECT_EQ(refusal_of("TIERCEL_SERVICE_HOST", "10.0.0.1"), "");
  EXPECT_EQ(refusal_of("TIERCEL_PORT", "tcp://10.0.0.1:80"), "");
}

TEST_F(OptionsSource, WhatOnlyCodeCanGiveIsNotWritten) {
  EngineOptions options;
  options.cache.eviction = [](std::size_t blocks) { return lru()(blocks); };
  EXPECT_EQ(save_options(options, folder_.path() + "/o.toml").message(), "cache.eviction comes from code alone");
  options.cache.eviction = lru();
  EXPECT_TRUE(save_options(options, folder_.path() + "/o.toml").ok());
  options.cache.tiers.emplace_back();
  EXPECT_EQ(save_options(options, folder_.path() + "/o.toml").message(), "cache.tiers comes from code alone");
  options.cache.tiers.clear();
  options.model = "\xff.gguf";
  EXPECT_EQ(save_options(options, folder_.path() + "/o.toml").code(), StatusCode::InvalidArgument);
  EXPECT_EQ(save_options({}, folder_.path() + "/none/o.toml").code(), StatusCode::Unavailable);
  EXPECT_EQ(load_options(folder_.path() + "/o.toml")->cache.eviction.target_type(), lru().target_type());
}

TEST(Suggestion, IsTheNearestNameOrNone) {
  const std::vector<std::string> known = {"threads", "cache.disk_dir", "cache.disk_codec"};
  EXPECT_EQ(did_you_mean("threads", known), "; did you mean threads?");
  EXPECT_EQ(did_you_mean("thraeds", known), "; did you mean threads?");
  EXPECT_EQ(did_you_mean("disk-dir", known), "; did you mean cache.disk_dir?");
  EXPECT_EQ(did_you_mean("cache.disk_code", known), "; did you mean cache.disk_codec?");
  EXPECT_EQ(did_you_mean("x", known), "");
  EXPECT_EQ(did_you_mean("", known), "");
  EXPECT_EQ(did_you_mean("color", known), "");
  EXPECT_EQ(did_you_mean(std::string(100'000, 't'), known), "");
}

// Seeded damage to good files: an answer always, never a crash; and what is accepted is valid and can be written.
TEST_F(OptionsSource, DamagedFilesAreAnswered) {
  const std::string pieces[] = {"[",     "]",    "{", "}",    "\"",   "'''",   "\n",
                                "=",     ".",    ",", "a.",   "\xff", "\\u12", "1e999",
                                "cache", "null", "-", "\0\0", "0x",   "[[",    "99999999999999999999",
                                ":",     "#",    "//"};
  for (const char* name : {"options.toml", "options.json"}) {
    std::ifstream stream(std::string(TIERCEL_TEST_DATA "/") + name, std::ios::binary);
    const std::string good(std::istreambuf_iterator<char>(stream), {});
    ASSERT_FALSE(good.empty());
    int accepted = 0;
    for (std::uint32_t seed = 0; seed < 1000; ++seed) {
      std::mt19937 random(seed);
      std::string text = good;
      for (std::uint32_t change = random() % 6 + 1; change > 0 && !text.empty(); --change) {
        const std::size_t place = random() % text.size();
        switch (random() % 5) {
          case 0: text[place] = static_cast<char>(random()); break;
          case 1: text.erase(place, random() % 20); break;
          case 2: text.insert(place, pieces[random() % std::size(pieces)]); break;
          case 3: {
            const std::size_t from = random() % text.size(), size = random() % 200;
            text.insert(place, text.substr(from, size));
            break;
          }
          case 4: text.resize(place); break;
        }
      }
      const auto options = load_options(file(name, text));
      if (!options.ok()) {
        EXPECT_EQ(options.status().code(), StatusCode::InvalidArgument) << seed << options.status().to_string();
        EXPECT_EQ(options.status().message().find('\n'), std::string::npos) << seed;
        continue;
      }
      ++accepted;
      const Status saved = save_options(*options, folder_.path() + "/again.toml");
      ASSERT_TRUE(saved.ok()) << seed << saved.to_string();
      const auto again = load_options(folder_.path() + "/again.toml");
      ASSERT_TRUE(again.ok()) << seed << again.status().to_string();
      for (const OptionField& field : option_fields()) EXPECT_EQ(field.text(*again), field.text(*options)) << seed;
    }
    EXPECT_GT(accepted, 0) << name;
  }
}

TEST_F(OptionsSource, DeepNestingEndsInAMessage) {
  const auto repeated = [](const std::string& piece) {
    std::string text;
    while (text.size() + piece.size() < 16'000) text += piece;
    return text;
  };
  EXPECT_TRUE(refusal("o.toml", repeated("a.") + "a = 1").starts_with("o.toml:1: "));
  EXPECT_TRUE(refusal("o.toml", "[" + repeated("a.") + "a]\nb = 1").starts_with("o.toml:1: "));
  EXPECT_TRUE(refusal("o.toml", "a = " + repeated("[")).starts_with("o.toml:"));
  EXPECT_TRUE(refusal("o.toml", "a = " + repeated("{a=")).starts_with("o.toml:"));
  EXPECT_TRUE(refusal("o.json", repeated("{\"a\":")).starts_with("o.json:1: "));
  EXPECT_TRUE(refusal("o.json", "{\"a\":" + repeated("[")).starts_with("o.json:1: "));
}

}  // namespace
}  // namespace tiercel
