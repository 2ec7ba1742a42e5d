// What the ranks of a model on CPUs say to each other within a step, each with a part of it (model_shard.h): sums over
// the ranks of a stage, hidden states from stage to stage, and the logits, which come together at rank 0.
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
  // Waits for the other ranks. InvalidArgument where they compute something else than `whole`. `communicator` has the
  // shard's rank and size, and outlives this.
  static Result<LlamaRanks> join(Communicator& communicator, const ModelShape& shape, const ModelShard& shard,
                                 const Fingerprint& whole);

  // `values`, of which each rank of the stage has a part, become the sum of all.
  Status add_up(float* values, std::size_t count);
  // The residual stream, from the rank of the same place in the stage before and to that in the one behind; every rank
  // of a stage has it whole.
  Status receive_hidden(float* values, std::size_t count);
  Status send_hidden(const float* values, std::size_t count);
  // The end of a step. Each rank of the last stage has `rows` of its part of the vocabulary at `part`; at rank 0 they
  // become rows of the whole at `logits`. Without any rank 0 waits for the last stage all the same: what a step takes
  // is measured there, and blocks that it uses are in use until the last stage is through.
  Status gather_logits(const float* part, std::size_t rows, float* logits);

 private:
  LlamaRanks(Communicator& communicator, const ModelShard& shard) : communicator_(&communicator), shard_(shard) {}

  Status await_last_stage();

  // One that gives a part of the logits.
  struct Source {
    std::uint32_t rank;
    ModelShard::Range vocabulary;
  };

  Communicator* communicator_;
  ModelShard shard_;
  std::unique_ptr<Communicator>
      stage_;  // view on the ranks of this stage; null: all ranks are in it, or this one alone
  std::vector<Source> sources_;
  std::vector<float> received_;  // part of the logits of another rank
};

}  // namespace tiercel
