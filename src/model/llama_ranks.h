// What the ranks of a model say to each other within a step, each with a part of it (model_shard.h): sums over the
// ranks of a stage, hidden states from stage to stage, and the logits, which come together at rank 0. Memory is of the
// communicator's kind, and operations are through when it says so.
//
// Nobody waits in a circle, though a message may be larger than what the network holds and its sender then waits for
// its receiver: hidden states go to later stages alone, and logits only when a rank has sent all hidden states of the
// step. Not thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "model/model_runner.h"
#include "model/model_shard.h"
#include "ranks/communicator.h"
#include "tiercel/types.h"

namespace tiercel {

class LlamaRanks {
 public:
  // All ranks join together. `communicator` has the shard's rank and size, and outlives this.
  static Result<LlamaRanks> join(Communicator& communicator, const ModelShape& shape, const ModelShard& shard);

  // `values`, of which each rank of the stage has a part, become the sum of all.
  Status add_up(void* values, std::size_t count, Element element);
  // The residual stream, from the rank of the same place in the stage before and to that in the one behind; every rank
  // of a stage has it whole.
  Status receive_hidden(void* values, std::size_t bytes);
  Status send_hidden(const void* values, std::size_t bytes);
  // The end of a step. Each rank of the last stage has `rows` of its part of the vocabulary at `parts`; rank 0 has
  // those of all of them there, one behind the other, or its own first and gets the others'. Without any rows rank 0
  // waits for the last stage all the same, of whom a byte goes there: what a step takes is measured at rank 0, and
  // blocks that it uses are in use until the last stage is through.
  Status gather_logits(float* parts, std::size_t rows);
  // One that gives a part of the logits; all of them, in the order in which their parts lie.
  struct Source {
    std::uint32_t rank;
    ModelShard::Range vocabulary;
  };
  const std::vector<Source>& sources() const { return sources_; }
  // Whether what rank 0 gets are rows of the whole vocabulary already.
  bool has_whole_rows() const { return sources_.size() == 1; }
  // Of what it gets: rows of the whole vocabulary. In host memory.
  void join_logits(const float* parts, std::size_t rows, float* logits) const;

 private:
  LlamaRanks(Communicator& communicator, const ModelShard& shard) : communicator_(&communicator), shard_(shard) {}

  Status await_last_stage(void* sign);

  Communicator* communicator_;
  ModelShard shard_;
  std::unique_ptr<Communicator>
      stage_;                    // view on the ranks of this stage; null: all ranks are in it, or this one alone
  std::vector<Source> sources_;  // by rank
};

// Ok: all ranks of a communicator of host memory compute the same model. Else InvalidArgument, here and there.
Status compare_models(Communicator& communicator, const Fingerprint& whole);

}  // namespace tiercel
