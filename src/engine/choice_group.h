// The sequences that draw several choices from one prompt (Request::n, best_of). The first one computes the prompt;
// when that is done the others fork its KV, or, where there is no room for them then, are admitted as requests of their
// own. Touched by the step thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tiercel/request.h"

namespace tiercel {

struct ChoiceGroup {
  struct Ended {
    Response response;
    double mean_logprob = 0;  // of its tokens; 0 for none
  };

  std::uint32_t n = 1;
  std::size_t unended = 1;   // sequences
  bool started = false;      // one entered the batch
  bool forked = false;       // the prompt is computed, or its sequence is gone: nobody waits for it any more
  std::vector<Ended> ended;  // by choice
  Status failure;            // of the first that failed, if one did

  // Takes one sequence's end. True: it was the last one.
  bool collect(std::uint32_t choice, Response response, const Status& status);
  // The answer of all, where none failed. The first choice's own response carries what concerns the prompt.
  Response answer();
};

}  // namespace tiercel
