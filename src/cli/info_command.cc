// tiercel info: what was opened, how it is computed and what it holds.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "device/cuda_devices.h"

namespace tiercel::cli {
namespace {

Json to_json(const EngineInfo& info) {
  return {{"path", info.model_path},
          {"name", info.model_name},
          {"architecture", info.architecture},
          {"parameters", info.parameters},
          {"layers", info.layers},
          {"hidden", info.hidden},
          {"heads", info.heads},
          {"kv_heads", info.kv_heads},
          {"head_dim", info.head_dim},
          {"vocabulary", info.vocabulary},
          {"context_tokens", info.context_tokens},
          {"has_chat_template", info.has_chat_template},
          {"kv_dtype", info.kv_dtype},
          {"block_tokens", info.block_tokens},
          {"kv_token_bytes", info.kv_token_bytes},
          {"load_ms", info.load_ms}};
}

Json to_json(const CudaDevices& cuda) {
  Json devices = Json::array();
  for (const CudaDevice& device : cuda.devices) {
    devices.push_back({{"name", device.name},
                       {"memory_bytes", device.memory_bytes},
                       {"compute_capability", fmt::format("{}.{}", device.compute_major, device.compute_minor)}});
  }
  return {{"built", cuda.built}, {"toolkit", cuda.toolkit}, {"devices", devices}, {"note", cuda.note}};
}

void print_heading(std::string_view text) { fmt::print("{}\n", bold(text)); }
void print_row(std::string_view name, std::string_view value) { fmt::print("  {:<24} {}\n", name, value); }

void print_model(const EngineInfo& info) {
  print_heading("Model");
  print_row("name", fmt::format("{} ({}, {:.0f} M parameters)", info.model_name, info.architecture,
                                static_cast<double>(info.parameters) / 1e6));
  print_row("file", info.model_path);
  print_row("shape", fmt::format("{} layers, hidden {}, {} heads of {}, {} KV heads, vocabulary {}", info.layers,
                                 info.hidden, info.heads, info.head_dim, info.kv_heads, info.vocabulary));
  print_row("context", fmt::format("{} tokens", info.context_tokens));
  print_row("KV", fmt::format("{}, {} a token, blocks of {} tokens", info.kv_dtype, readable_bytes(info.kv_token_bytes),
                              info.block_tokens));
  print_row("loaded in", fmt::format("{:.0f} ms", info.load_ms));
}

void print_machine(const EngineInfo& info, const CudaDevices& cuda) {
  print_heading("Machine");
  print_row("processor", fmt::format("{}, {}, {} threads used", info.cpu, info.simd, info.threads));
  if (info.replicas > 1) print_row("replicas", fmt::format("{}, which share the threads", info.replicas));
  for (const CudaDevice& device : cuda.devices) {
    print_row("GPU", fmt::format("{}, {}, compute capability {}.{}", device.name,
                                 readable_bytes(static_cast<std::size_t>(device.memory_bytes)), device.compute_major,
                                 device.compute_minor));
  }
  if (!cuda.note.empty()) print_row("GPU", cuda.note);
}

int inform(const CliOptions& shared) {
  auto engine = open_engine(shared);
  if (!engine.ok()) return fail(engine.status());
  const EngineInfo& info = engine->info();
  const MemoryStats memory = engine->get_stats().memory;
  const CudaDevices cuda = list_cuda_devices();
  if (shared.json) {
    Json kernels = Json::object();
    for (const auto& [layer, choice] : info.linear_kernels) kernels[layer] = choice;
    print_json(
        {{"version", TIERCEL_VERSION},
         {"model", to_json(info)},
         {"machine", {{"cpu", info.cpu}, {"simd", info.simd}, {"replicas", info.replicas}, {"threads", info.threads}}},
         {"kernels", kernels},
         {"memory", cli::to_json(memory)},
         {"cuda", to_json(cuda)}});
    return kDone;
  }
  print_model(info);
  print_machine(info, cuda);
  print_heading("Kernels, as measured at load");
  for (const auto& [layer, choice] : info.linear_kernels) print_row(layer, choice);
  print_heading("Memory");
  for (const auto& [kind, size] : readable_memory(memory)) print_row(kind, size);
  return kDone;
}

}  // namespace

Command add_info_command(CLI::App& program, CliOptions& shared) {
  CLI::App* app = program.add_subcommand("info", "Model, machine, chosen kernels and memory");
  add_shared_options(*app, shared);
  return {app, [&shared] { return inform(shared); }};
}

}  // namespace tiercel::cli
