// What the step loop knows of a model: its shape, and one call that computes a batch. No LibTorch here, so that the
// scheduler and the step loop build, and are tested, without it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/sampling_row.h"
#include "tiercel/status.h"
#include "tiercel/types.h"

namespace tiercel {

class BlockMemory;  // kv/block_memory.h
class StepProfile;  // base/step_profile.h

enum class Logits : std::uint8_t { None, Last, All };

// With which arithmetic a chunk's tokens are computed. Any leaves the choice to the runner (the fastest for the batch
// at hand); the other two give a token the same bits in every batch.
enum class Arithmetic : std::uint8_t { Any, Prefill, Decode };

// One sequence's part of a step: new tokens whose predecessors' KV is in the blocks already.
struct SequenceChunk {
  std::span<const TokenId> tokens;  // at least one
  std::size_t first_position = 0;
  std::span<const BlockId> block_table;  // covers first_position + tokens.size() tokens
  Logits logits = Logits::None;
  Arithmetic arithmetic = Arithmetic::Any;
  // Only its products need that arithmetic, so that the step's rows share them: attention is the runner's choice.
  bool any_attention = false;
  // How to draw a token from each of its rows of logits, which are not returned then; empty: they are returned. Only
  // where the runner draws_tokens().
  std::span<const kernels::SamplingRow> draws = {};

  // Those whose logits are asked for: the last ones of its tokens.
  std::size_t logit_rows() const { return logits == Logits::All ? tokens.size() : logits == Logits::Last ? 1 : 0; }
};

struct ModelShape {
  std::string name;
  std::string architecture;
  std::uint64_t parameters = 0;
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t feed_forward = 0;
  std::uint32_t vocabulary = 0;
  std::uint32_t context_tokens = 0;  // the longest sequence it was trained for
};

struct ModelMemory {
  std::size_t packed_bytes = 0;     // weights in a packing of our own
  std::size_t mapped_bytes = 0;     // weights used where the file is mapped
  std::size_t workspace_bytes = 0;  // activations and logits
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const ModelShape& shape() const = 0;
  virtual const Fingerprint& fingerprint() const = 0;
  virtual ModelMemory memory() const = 0;
  // Layer kind -> what computes it, for people.
  virtual std::vector<std::pair<std::string, std::string>> kernels() const = 0;

  // Most rows of logits that one step may ask for.
  virtual std::size_t max_logit_rows() const = 0;

  // The blocks of all steps are in `memory`, of the runner's device, which outlives them. Called once, before any step
  // and any load into it, or never: loads are through when they return then.
  virtual void compute_over(const BlockMemory&) {}

  // Whether chunks may have `draws`: the tokens that TokenDraw (kernels/token_draw.h) draws from the same logits. For
  // who is nearer to the logits than the caller, or has more threads.
  virtual bool draws_tokens() const { return false; }

  // Computes every chunk's tokens: writes their KV into `arena` (blocks of the layout agreed at load) and returns the
  // logits asked for, one row of `vocabulary` each, chunk by chunk and token by token; valid until the next step.
  // Called by one thread, always the same. The chunks hold at most the max_batch_tokens agreed at load.
  virtual Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) = 0;
  // What the last step drew, in the same order; valid until the next one.
  virtual std::span<const kernels::DrawnToken> drawn() const { return {}; }
  // Of a model that ranks share, where it says what is said within a step in a way of its own: ends that, so that
  // neither this rank waits for the others nor they for this one. Every later step fails. Any thread; idempotent.
  virtual void leave_ranks() {}
  // Where the time of steps goes; null where nobody asked. step() enters its parts.
  virtual StepProfile* profile() { return nullptr; }
  // Processor time of the threads that help in step(), since they began. Called by the thread that calls step().
  virtual double workers_cpu_s() { return 0; }
};

}  // namespace tiercel
