#include "model/llama_parameters.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

#include "base/logging.h"
#include "kernels/group_linear.h"
#include "kernels/paged_attention.h"
#include "model/model_fingerprint.h"

namespace tiercel {
namespace {

// Raised when a change of ours changes the KV of a token: what an earlier tiercel left on a disk is then a miss.
constexpr std::uint32_t kArithmeticVersion = 7;

KvLayout whole_layout(const ModelShape& shape, const LlamaOptions& options) {
  return {.layers = shape.layers,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .block_tokens = options.block_tokens,
          .dtype = options.kv_dtype == KvDType::Int8     ? DType::Int8
                   : options.compute == Compute::Precise ? DType::F32
                                                         : DType::BF16};
}

// Of the whole model as these options compute it: what all ranks have alike.
Fingerprint fingerprint_of(const GgufFile& file, const LlamaConfig& config, const LlamaOptions& options) {
  const KvLayout layout = whole_layout(config.shape, options);
  return model_fingerprint(file, config, layout,
                           {{kArithmeticVersion, static_cast<std::uint32_t>(options.compute), options.deterministic,
                             kernels::has_bf16_products(), kernels::has_int8_products(), kernels::has_int8_attention(),
                             kernels::prefers_int16_products(), kernels::prefers_paired_products()}});
}

// Nothing measured, so that every process computes alike.
LinearPlan deterministic_plan(const Linear& layer) {
  if (!layer.needs_product()) return {};
  return {.product = layer.rounding() == Rounding::None ? Product::F32 : Product::Bf16, .from_rows = 1};
}

}  // namespace

void use_one_libtorch_thread() { at::set_num_threads(1); }

LlamaParameters::LlamaParameters(GgufFile file_, LlamaConfig config_, LlamaWeights weights_,
                                 const LlamaOptions& options)
    : file(std::move(file_)), config(std::move(config_)), weights(std::move(weights_)) {
  whole_fingerprint = fingerprint_of(file, config, options);
  fingerprint = shard_fingerprint(whole_fingerprint, options.shard);
  ThreadTeam team(options.threads, use_one_libtorch_thread);
  choose_kernels(options, team);
}

void LlamaParameters::choose_kernels(const LlamaOptions& options, ThreadTeam& team) {
  std::size_t groups_bytes = 0;
  weights.for_each_kind([&](std::string_view, const std::vector<Linear*>& linears) {
    for (const Linear* linear : linears) groups_bytes += linear->groups_bytes();
  });
  auto reserved = PageMemory::reserve(std::max<std::size_t>(1, groups_bytes));
  if (!reserved.ok()) throw std::runtime_error(reserved.status().message());
  groups_memory = *std::move(reserved);
  std::byte* next = groups_memory.start();
  weights.for_each_kind([&](std::string_view kind, const std::vector<Linear*>& linears) {
    for (Linear* linear : linears) {
      linear->pack_groups(team, next);
      next += linear->groups_bytes();
    }
    const bool head = kind == "head";
    LinearPlan plan =
        options.deterministic
            ? deterministic_plan(*linears.front())
            : choose_product(*linears.front(), std::min(options.max_batch_tokens, head ? options.max_logit_rows : 256),
                             team);
    linears.front()->set_plan(plan, team);
    plan.keeps_bits = linears.front()->product_keeps_bits(team);
    for (Linear* linear : linears) {
      linear->set_plan(plan, team);
      memory.packed_bytes += linear->packed_bytes();
    }
    kernel_names.emplace_back(
        kind, plan.describe(linears.front()->weights_type(), group_products(linears.front()->rounding())));
    log().info("linear {}: {}", kind, kernel_names.back().second);
  });
  weights.copies.clear();  // nobody unpacks a layer after this
  memory.mapped_bytes = weights.mapped_bytes;
}

KvLayout llama_kv_layout(const ModelShape& shape, const LlamaOptions& options) {
  KvLayout layout = whole_layout(shape, options);
  if (options.shard.size > 1) {
    layout.layers = options.shard.layers.count;
    layout.kv_heads = options.shard.kv_heads.count;
  }
  return layout;
}

Result<std::shared_ptr<const LlamaParameters>> load_llama_parameters(GgufFile file, const LlamaOptions& options) {
  const std::string path = file.path();
  try {
    const c10::InferenceMode no_gradients;
    use_one_libtorch_thread();
    auto config = read_llama_config(file);
    if (!config.ok()) return config.status();
    auto weights = read_llama_weights(file, *config, options.shard, options.compute);
    if (!weights.ok()) return weights.status();
    return std::shared_ptr<const LlamaParameters>(
        std::make_shared<LlamaParameters>(std::move(file), *std::move(config), *std::move(weights), options));
  } catch (const std::exception& error) {
    return Status::unavailable(fmt::format("{}: the model could not be loaded: {}", path, error.what()));
  }
}

}  // namespace tiercel
