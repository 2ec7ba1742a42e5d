// Every setting of an Engine, with unit, default and range. A default-constructed struct with `model` set is usable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tiercel/eviction_policy.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class TierStore;  // tiercel/tier_store.h

// How exactly the model is computed. Weights are those of the file in every mode.
enum class Compute : std::uint8_t {
  Fast,  // bf16 activations and KV, int8 activations in some layers: mean |log-prob deviation| under 0.03 from float32
  Precise,  // float32 activations and KV: agrees with a float32 reference; for checking, about 4 times slower
  Turbo,    // int8 activations, each 32 with a scale of their own, as llama.cpp has them: about 0.05. As Fast where the
            // processor has neither AVX512-VNNI nor AVX2
};

// Which new blocks are written to the tiers while the cache is open. In the background and without anybody waiting:
// where too many wait, or the block is evicted first, it is not written. Whatever the policy, KvCache::flush() and the
// end of the cache write all that is cached then; and no block of Low priority or with a ttl is written at all.
enum class WritePolicy : std::uint8_t {
  EveryBlock,   // each, when its request ends: what was evicted comes back from a tier the first time it is asked for
  SeenTwice,    // those of High priority, those that a second request finds in the cache, and those that are computed a
                // second time: fewer bytes written, fewer blocks that nobody asks for again
  WhenEvicted,  // of those that SeenTwice has, the ones that are next to be evicted, ahead of it; of High priority at
                // once: a tier holds little that the hot arena still does. What leaves faster than that, or because its
                // tenant is at its quota, is not written.
};

// What an engine's KV is in the hot arena, and so in every tier.
enum class KvDType : std::uint8_t {
  Auto,  // as exact as `compute` is: bf16, in Precise f32
  Int8,  // 8 bits a value, with a scale for each token and head: about half of bf16's bytes in the arena, in the tiers
         // and in what attention reads, for some quality (docs/benchmarks.md). On CPUs
};

struct KvCacheOptions {
  // Bytes of KV in the hot arena, running sequences and cached prefixes together. Reserved as address space when the
  // engine opens; the system backs a page when it is first written, or shortly before (prefault_bytes). At least one
  // block. On a GPU, memory of that GPU, taken at once; 0: nine tenths of what weights and workspace leave free there.
  // Default 1 GiB.
  std::size_t capacity_bytes = std::size_t{1} << 30;
  // So many bytes of the arena, beyond what was ever used, are backed by memory as soon as the engine has a moment
  // without requests: the system takes milliseconds to clear what a step writes first. A server that is to be at its
  // best from the first request on gives the arena's size; one that must stay small gives 0. Default 256 MiB.
  std::size_t prefault_bytes = std::size_t{256} << 20;
  // Tokens per block, the unit of sharing, eviction and transfer: 8, 16, 32, 64 or 128. Default 32.
  std::uint32_t block_tokens = 32;
  // An engine's; KvCache::open() is given a layout, which says it. Int8 not on GPUs, nor with tiers of codec int8 or
  // int4. What was kept on disk with another one is not found. Default Auto.
  KvDType kv_dtype = KvDType::Auto;
  // False: every request computes its whole prompt and leaves nothing behind.
  bool prefix_reuse = true;
  // Which cached block goes first: lru(), lfu(), adaptive() or your own. Empty: adaptive().
  EvictionPolicyFactory eviction = {};
  // Most KV bytes of one tenant (one salt), running and cached together; at least one block. 0: tenants have no quotas.
  // SIZE_MAX: only those that KvCache::set_tenant_quota() gives. Default 0.
  std::size_t tenant_quota_bytes = 0;
  // A file to append a trace of every admitted prompt to: block ids and lengths, never text; `tiercel replay` reads it.
  // Not with several replicas. Empty: none.
  std::string record_trace = {};

  // Tiers: where blocks are that the hot arena has no room for. New blocks are written to all of them (tier_writes); a
  // waiting prompt's blocks are looked for in all, the fastest first, and loaded where that takes less time than
  // computing them. Without any, evicted blocks are computed again.

  // Bytes of host memory for compressed blocks. 0: none.
  std::size_t memory_tier_bytes = 0;
  Codec memory_tier_codec = Codec::Lossless;
  // A directory that survives the process: the next one that opens it finds the prefixes. Empty: none.
  std::string disk_dir = {};
  // Most bytes of its files, of all models together. Default 16 GiB.
  std::size_t disk_capacity_bytes = std::size_t{16} << 30;
  Codec disk_codec = Codec::Raw;
  // More of disk_tier(), such as encryption, and stores of your own come here, behind the two above, fastest first.
  // Each belongs to this cache from open() on.
  std::vector<std::shared_ptr<TierStore>> tiers = {};
  WritePolicy tier_writes = WritePolicy::EveryBlock;
  // Longest time that one operation of a tier may take (the reading or writing of a few blocks). When it is over nobody
  // waits for that tier any more until it has shown that it is well. At least 1. Default 1,000.
  std::uint64_t tier_deadline_ms = 1000;

  Status validate() const;
};

// How ranks speak to each other, but for what GPUs say to each other in a step, which goes by NCCL; of both, over TCP.
enum class RankTransport : std::uint8_t {
  Tcp,   // sockets alone: the faster one
  Gloo,  // the library Gloo, where tiercel was built with it
};

// Ranks: processes, on one machine or several, that hold a part of the model and its KV each and compute every step
// together (docs/ranks.md). Rank 0 is the engine; each other one is a process in Engine::serve_rank().
struct RankOptions {
  // 1: no ranks. At most 1024, and in each stage no more than the model has query heads.
  std::uint32_t size = 1;
  // Stages: runs of layers, one behind the other, each of size / pipeline ranks, which share its heads; rank = stage *
  // (size / pipeline) + place in the stage. More than 1 is for slow links: within a stage ranks add up twice a layer,
  // from stage to stage a token's hidden state goes once. Rank 0's rules. Divides `size`; no more than the model has
  // layers. Default 1.
  std::uint32_t pipeline = 1;
  // This process's own number. 0 .. size - 1.
  std::uint32_t rank = 0;
  // "host:port" of rank 0, the same for all: rank 0 listens there. Required where size is above 1.
  std::string address = {};
  RankTransport transport = RankTransport::Tcp;
  // Longest time that ranks wait for each other, in milliseconds. When it is over the ranks fail, all of them. Rank 0's
  // rules. At least 1. Default 30,000.
  std::uint64_t timeout_ms = 30'000;
  // The same until all are there and have loaded their part. Default 300,000.
  std::uint64_t open_timeout_ms = 300'000;
};

struct EngineOptions {
  // Path of a GGUF file, version 3. Required.
  std::string model = {};
  KvCacheOptions cache = {};
  // Where the model is computed, and where its hot KV is: "cpu", "cuda" (the first GPU) or "cuda:N". Replicas are on
  // GPUs N, N + 1, ... Each rank has a device of its own: all a GPU, or none. On a GPU activations are bf16 in `fast`
  // and `turbo`, and exact weights in all modes. Default "cpu".
  std::string device = "cpu";
  Compute compute = Compute::Fast;
  // The tokens of a request do not depend on cache hits, on the other requests in its batch or on timing: reuse is
  // limited to blocks that a cold run would compute with the same arithmetic. Not with tiers that lose bits (int8,
  // int4), nor with more than two ranks on GPUs. Default false.
  bool deterministic = false;
  // Copies of what runs the model, in this process: each has a batch, a hot arena and threads of its own, and takes the
  // requests for which it is expected to be the first to answer, by what it has cached and what waits there. They share
  // the weights and the tiers. On CPUs one for each NUMA node or group of cores. What is said of all together is
  // divided evenly: cache.capacity_bytes, cache.prefault_bytes, cache.tenant_quota_bytes, threads, and the cores, near
  // ones to the same replica. Limits of a step hold for each. Not with ranks. 1 .. 64. Default 1.
  std::uint32_t replicas = 1;
  // Threads of a step, of all replicas together (each has at least one). 0: one per core this process may run on.
  // 0 .. 256.
  std::uint32_t threads = 0;
  // Longest sequence, prompt and output, in tokens. 0: what the model was trained for. Not above it.
  std::uint32_t context_tokens = 0;
  // Most sequences in one step. 1 .. 4096.
  std::uint32_t max_batch_sequences = 128;
  // Most tokens in one step: running sequences take one each, the rest goes to prefill. 32 .. 65536, and at least
  // max_batch_sequences.
  std::uint32_t max_batch_tokens = 1024;
  // Requests that may wait for a place in the batch, of all replicas together; one more is Rejected at once. At
  // least 1.
  std::uint32_t max_queued_requests = 4096;

  // Longest step while streams run, in milliseconds: prompts are computed in pieces that keep to it, so that a long
  // prompt does not stall the others. 0: 1.75 times what the streams take without prompts, which keeps the gaps between
  // their tokens even; more, up to 200, the more requests wait for their first token than streams run. Finite, at least
  // 0. Default 0.
  double target_step_ms = 0;
  // Speculative decoding without a second model: what the cache knows to have followed a prefix before, or what
  // followed the same few tokens earlier in the sequence, is computed along with the next token and kept where it is
  // what is drawn anyway. It changes the time of answers, never their tokens, and is done only where it is measured to
  // pay. Default true.
  bool speculation = true;
  // Most tokens that are guessed ahead for one sequence. 1 .. 64. Default 7: eight rows are one tile of the kernels.
  std::uint32_t max_draft_tokens = 7;
  // Waiting so long counts as much as one level of priority, in milliseconds. At least 1. Default 10,000.
  std::uint64_t aging_ms = 10'000;
  // Most bytes of weights, KV, compressed KV in memory and a step's workspace together. The KV arena is made smaller
  // where they would be more. 0: no limit.
  std::size_t memory_limit_bytes = 0;
  // Length of the window that EngineStats::window looks back, in milliseconds. 60 .. 86,400,000. Default 60,000.
  std::uint64_t stats_window_ms = 60'000;
  // EngineStats::profile says where the time of steps goes. Costs some tens of milliseconds at open() and a thousandth
  // of a step. Default false.
  bool profile_steps = false;
  // The ranks that share the model. Each has tiers of its own, for its part of the KV.
  RankOptions ranks = {};
  // Cores, by the system's numbers, that the engine's threads may run on. Empty: those of the thread that opens it.
  std::vector<std::uint32_t> cpus = {};

  // InvalidArgument naming the field, its value and its range; does not touch the file system.
  Status validate() const;
};

}  // namespace tiercel
