#include "tiercel/options.h"

#include <functional>
#include <string>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

EngineOptions usable() {
  EngineOptions options;
  options.model = "model.gguf";
  return options;
}

TEST(Options, DefaultsAreUsableOnceAModelIsNamed) {
  EXPECT_TRUE(KvCacheOptions().validate().ok());
  EXPECT_TRUE(usable().validate().ok());
  EXPECT_EQ(EngineOptions().validate().code(), StatusCode::InvalidArgument);
}

// Each row breaks one field; the message must name the field, its value and what may be given.
struct Broken {
  std::function<void(EngineOptions&)> change;
  const char* field;
  const char* value;
  const char* range;
};

TEST(Options, EveryFieldOutOfRangeIsNamed) {
  const Broken rows[] = {
      {[](EngineOptions& o) { o.model = ""; }, "model", "empty", "GGUF"},
      {[](EngineOptions& o) { o.cache.capacity_bytes = 0; }, "cache.capacity_bytes", "0", "one block"},
      {[](EngineOptions& o) { o.cache.block_tokens = 0; }, "cache.block_tokens", "0", "8, 16, 32, 64 or 128"},
      {[](EngineOptions& o) { o.cache.block_tokens = 24; }, "cache.block_tokens", "24", "8, 16, 32, 64 or 128"},
      {[](EngineOptions& o) { o.cache.block_tokens = 256; }, "cache.block_tokens", "256", "8, 16, 32, 64 or 128"},
      {[](EngineOptions& o) { o.compute = static_cast<Compute>(9); }, "compute", "9", "fast, precise or turbo"},
      {[](EngineOptions& o) { o.cache.kv_dtype = static_cast<KvDType>(9); }, "cache.kv_dtype", "9", "auto or int8"},
      {[](EngineOptions& o) {
         o.cache.kv_dtype = KvDType::Int8;
         o.cache.disk_dir = "kv";
         o.cache.disk_codec = Codec::Int4;
       },
       "cache.disk_codec", "int4", "cache.kv_dtype is int8; give raw or lossless"},
      {[](EngineOptions& o) {
         o.cache.kv_dtype = KvDType::Int8;
         o.cache.memory_tier_bytes = 1;
         o.cache.memory_tier_codec = Codec::Int8;
       },
       "cache.memory_tier_codec", "int8", "cache.kv_dtype is int8; give raw or lossless"},
      {[](EngineOptions& o) { o.device = "cuda:1", o.cache.kv_dtype = KvDType::Int8; }, "device", "cuda:1",
       "cache.kv_dtype is int8; give auto"},
      {[](EngineOptions& o) { o.cache.tier_deadline_ms = 0; }, "cache.tier_deadline_ms", "0", "at least 1"},
      {[](EngineOptions& o) { o.cache.tier_writes = static_cast<WritePolicy>(9); }, "cache.tier_writes", "9",
       "every, twice or evicted"},
      {[](EngineOptions& o) {
         o.deterministic = true;
         o.cache.disk_dir = "kv";
         o.cache.disk_codec = Codec::Int8;
       },
       "cache.disk_codec", "int8", "lossless"},
      {[](EngineOptions& o) {
         o.deterministic = true;
         o.cache.memory_tier_bytes = 1;
         o.cache.memory_tier_codec = Codec::Int4;
       },
       "cache.memory_tier_codec", "int4", "lossless"},
      {[](EngineOptions& o) { o.device = "cuda:"; }, "device", "\"cuda:\"", "cuda:N"},
      {[](EngineOptions& o) { o.device = "cuda:-1"; }, "device", "\"cuda:-1\"", "cuda:N"},
      {[](EngineOptions& o) { o.device = "cuda:1x"; }, "device", "\"cuda:1x\"", "cuda:N"},
      {[](EngineOptions& o) { o.device = ""; }, "device", "\"\"", "cuda:N"},
      {[](EngineOptions& o) {
         o.device = "cuda";
         o.deterministic = true;
         o.ranks = {.size = 3, .address = "host:1"};
       },
       "device", "cuda", "at most 2"},
      {[](EngineOptions& o) {
         o.device = "cuda";
         o.deterministic = true;
         o.ranks = {.size = 6, .pipeline = 2, .address = "host:1"};
       },
       "device", "cuda", "at most 4 ranks, 2 in each stage"},
      {[](EngineOptions& o) { o.replicas = 0; }, "replicas", "0", "1 to 64"},
      {[](EngineOptions& o) { o.replicas = 65; }, "replicas", "65", "1 to 64"},
      {[](EngineOptions& o) {
         o.replicas = 2;
         o.ranks = {.size = 2, .address = "host:1"};
       },
       "replicas", "2", "ranks.size is 2"},
      {[](EngineOptions& o) {
         o.replicas = 2;
         o.cache.record_trace = "trace";
       },
       "replicas", "2", "cache.record_trace"},
      {[](EngineOptions& o) { o.threads = 257; }, "threads", "257", "256"},
      {[](EngineOptions& o) { o.max_batch_sequences = 0; }, "max_batch_sequences", "0", "1 to 4096"},
      {[](EngineOptions& o) { o.max_batch_sequences = 4097; }, "max_batch_sequences", "4097", "1 to 4096"},
      {[](EngineOptions& o) { o.max_batch_tokens = 31; }, "max_batch_tokens", "31", "32 to 65536"},
      {[](EngineOptions& o) { o.max_batch_tokens = 65537; }, "max_batch_tokens", "65537", "32 to 65536"},
      {[](EngineOptions& o) { o.max_batch_tokens = 127; }, "max_batch_tokens", "127",
       "max_batch_sequences, which is 128"},
      {[](EngineOptions& o) { o.max_draft_tokens = 0; }, "max_draft_tokens", "0", "1 to 64"},
      {[](EngineOptions& o) { o.max_draft_tokens = 65; }, "max_draft_tokens", "65", "1 to 64"},
      {[](EngineOptions& o) { o.max_queued_requests = 0; }, "max_queued_requests", "0", "at least 1"},
      {[](EngineOptions& o) { o.ranks.size = 0; }, "ranks.size", "0", "1 to 1024"},
      {[](EngineOptions& o) { o.ranks.rank = 1; }, "ranks.rank", "1", "0 to 0"},
      {[](EngineOptions& o) { o.ranks.size = 2; }, "ranks.address", "empty", "host:port"},
      {[](EngineOptions& o) { o.ranks.pipeline = 0; }, "ranks.pipeline", "0", "1 to 1024"},
      {[](EngineOptions& o) { o.ranks = {.size = 4, .pipeline = 3, .address = "host:1"}; }, "ranks.pipeline", "3",
       "ranks.size is 4"},
      {[](EngineOptions& o) { o.ranks.timeout_ms = 0; }, "ranks.timeout_ms", "0", "at least 1"},
      {[](EngineOptions& o) { o.ranks.transport = static_cast<RankTransport>(9); }, "ranks.transport", "9",
       "tcp or gloo"},
  };
  for (const Broken& row : rows) {
    EngineOptions options = usable();
    row.change(options);
    const Status status = options.validate();
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument) << row.field;
    EXPECT_TRUE(status.message().starts_with(std::string(row.field) + " is " + row.value)) << status.message();
    EXPECT_NE(status.message().find(row.range), std::string::npos) << status.message();
  }
}

TEST(Options, TheEndsOfEveryRangeAreAllowed) {
  const std::function<void(EngineOptions&)> edges[] = {
      [](EngineOptions& o) { o.cache.capacity_bytes = 1; },
      [](EngineOptions& o) { o.device = "cuda", o.cache.capacity_bytes = 0; },
      [](EngineOptions& o) { o.device = "cuda:12"; },
      [](EngineOptions& o) { o.device = "cuda", o.ranks = {.size = 1024, .address = "host:1"}; },
      [](EngineOptions& o) { o.deterministic = true, o.device = "cuda", o.ranks = {.size = 2, .address = "host:1"}; },
      [](EngineOptions& o) { o.deterministic = true, o.ranks = {.size = 3, .address = "host:1"}; },
      [](EngineOptions& o) { o.cache.block_tokens = 8; },
      [](EngineOptions& o) { o.cache.kv_dtype = KvDType::Int8, o.deterministic = true, o.cache.disk_dir = "kv"; },
      [](EngineOptions& o) { o.cache.kv_dtype = KvDType::Int8, o.cache.disk_codec = Codec::Int8; },  // of no tier
      [](EngineOptions& o) { o.cache.block_tokens = 16; },
      [](EngineOptions& o) { o.cache.block_tokens = 64; },
      [](EngineOptions& o) { o.cache.block_tokens = 128; },
      [](EngineOptions& o) { o.compute = Compute::Precise; },
      [](EngineOptions& o) { o.replicas = 64; },
      [](EngineOptions& o) { o.threads = 256; },
      [](EngineOptions& o) { o.max_batch_sequences = 1, o.max_batch_tokens = 32; },
      [](EngineOptions& o) { o.max_batch_sequences = 4096, o.max_batch_tokens = 4096; },
      [](EngineOptions& o) { o.max_batch_tokens = 65536; },
      [](EngineOptions& o) { o.max_queued_requests = 1; },
      [](EngineOptions& o) { o.context_tokens = 1; },
      [](EngineOptions& o) { o.ranks = {.size = 1024, .rank = 1023, .address = "host:1"}; },
      [](EngineOptions& o) { o.ranks = {.size = 6, .pipeline = 3, .address = "host:1"}; },
      [](EngineOptions& o) { o.ranks = {.size = 2, .address = "host:1"}, o.cache.disk_dir = "kv"; },
      [](EngineOptions& o) { o.device = "cuda", o.ranks = {.size = 6, .pipeline = 2, .address = "host:1"}; },
      [](EngineOptions& o) {
        o.device = "cuda";
        o.deterministic = true;
        o.ranks = {.size = 6, .pipeline = 3, .address = "host:1"};
      },
  };
  for (const auto& change : edges) {
    EngineOptions options = usable();
    change(options);
    EXPECT_TRUE(options.validate().ok()) << options.validate().to_string();
  }
}

TEST(Options, CacheOptionsAloneNameTheirOwnField) {
  KvCacheOptions options;
  options.block_tokens = 33;
  EXPECT_EQ(options.validate().message(), "block_tokens is 33; give 8, 16, 32, 64 or 128");
}

}  // namespace
}  // namespace tiercel
