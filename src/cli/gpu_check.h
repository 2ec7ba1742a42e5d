// The parts of `tiercel gpu-check`: what is known of a GPU after kernels, speed and the whole engine were tried on it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cli/report.h"
#include "tiercel/options.h"
#include "tiercel/status.h"

namespace tiercel::cli {

// Every kernel against its CPU counterpart, and tiny models against a plain transformer: the program gpu_test.
struct GpuKernelCheck {
  std::size_t tests = 0;
  std::vector<std::string> failed = {};
};

// One case of the program gpu_bench. 0: it has no such figure.
struct GpuSpeed {
  std::string name = {};
  double time_us = 0;
  double bytes_per_s = 0;
  double flop_per_s = 0;
  double share = 0;  // of the card's memory or link, as a copy in the same run has it
};

// One model on the GPU: is an answer the CPU's, and what a prompt costs by where its KV is.
struct GpuEngineCheck {
  std::size_t prompt_tokens = 0;
  bool agrees_with_cpu = false;  // greedy tokens of short prompts, in float32
  bool hits_agree = false;       // greedy tokens behind KV computed, on the GPU, in host memory and on disk
  double cold_ttft_ms = 0;
  double device_hit_ttft_ms = 0;
  double host_hit_ttft_ms = 0;
  double disk_hit_ttft_ms = 0;
  double decode_tokens_per_s = 0;
  std::vector<std::string> remarks = {};  // what did not happen as it should
};

struct GpuTarget {
  std::string what = {};
  double measured = 0, bar = 0;
  bool at_least = true;  // else at most
  bool met() const { return at_least ? measured >= bar : measured <= bar; }
};

struct GpuCheckReport {
  std::string gpu = {};
  double seconds = 0;
  GpuKernelCheck kernels = {};
  std::vector<GpuSpeed> speeds = {};
  GpuEngineCheck engine = {};
  std::vector<GpuTarget> targets = {};
  bool is_right() const {
    return kernels.tests > 0 && kernels.failed.empty() && engine.agrees_with_cpu && engine.hits_agree;
  }
};

// Of what the two programs write as JSON. InvalidArgument: it is none of theirs.
Result<GpuKernelCheck> kernel_check_of(const std::string& gtest_json);
Result<std::vector<GpuSpeed>> speeds_of(const std::string& benchmark_json);
std::vector<GpuTarget> targets_of(const std::vector<GpuSpeed>& speeds, const GpuEngineCheck& engine);

// Opens engines of this model on options.device, one after another, for prompts of about so many tokens.
Result<GpuEngineCheck> check_engine_on_gpu(const EngineOptions& options, std::size_t prompt_tokens);

Json to_json(const GpuCheckReport& report);
std::string to_markdown(const GpuCheckReport& report);

}  // namespace tiercel::cli
