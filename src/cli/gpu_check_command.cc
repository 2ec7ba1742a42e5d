// tiercel gpu-check: whether this machine's GPU computes right, and how fast, in one report.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>

#include <fmt/format.h>

#include "base/device_name.h"
#include "cli/child_process.h"
#include "cli/commands.h"
#include "cli/default_model.h"
#include "cli/gpu_check.h"
#include "device/cuda_devices.h"

namespace tiercel::cli {
namespace {

struct GpuCheckOptions {
  std::string build_dir;
  std::string report_file;
  std::uint32_t prompt_tokens = 7900;
};

// The directory that this program was built in; empty where it was installed.
std::string own_build_dir() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path directory = program.parent_path();
  return std::filesystem::exists(directory / "CMakeCache.txt", error) ? directory.string() : "";
}

// Runs a program of the build directory whose `arguments` have it write JSON to `file`; what that then holds.
Result<std::string> run_for_json(const std::string& program, const std::string& file,
                                 std::vector<std::string> arguments) {
  const auto output = run_program(program, std::move(arguments));
  auto text = read_file(file);  // gpu_test ends with 1 where a test failed, and writes its report nevertheless
  if (text.ok()) return text;
  return output.ok() ? text.status() : output.status();
}

Result<GpuCheckReport> check(const EngineOptions& engine, const GpuCheckOptions& options, const std::string& gpu) {
  const auto start = std::chrono::steady_clock::now();
  const std::string build_dir = options.build_dir.empty() ? own_build_dir() : options.build_dir;
  if (build_dir.empty()) {
    return Status::invalid_argument(
        "this program is not in its build directory, which has the tests of kernels; give --build-dir");
  }
  GpuCheckReport report{.gpu = gpu};
  fmt::print(stderr, "gpu-check: building what is missing in {}\n", build_dir);
  if (const auto built = run_program("cmake", {"--build", build_dir, "--target", "gpu_test", "gpu_bench"});
      !built.ok()) {
    return Status(built.status().code(), built.status().message() + fmt::format(": see cmake --build {}", build_dir));
  }
  const ScratchDirectory scratch;
  fmt::print(stderr, "gpu-check: every kernel against the CPU's\n");
  const std::string tests = scratch.path() + "/tests.json", speeds = scratch.path() + "/speeds.json";
  auto kernels =
      run_for_json(build_dir + "/tests/gpu/gpu_test", tests, {"--gtest_brief=1", "--gtest_output=json:" + tests});
  if (!kernels.ok()) return kernels.status();
  auto kernel_check = kernel_check_of(*kernels);
  if (!kernel_check.ok()) return kernel_check.status();
  report.kernels = *std::move(kernel_check);
  fmt::print(stderr, "gpu-check: speed beside the card's\n");
  auto benchmarks =
      run_for_json(build_dir + "/bench/gpu_bench", speeds,
                   {"--benchmark_out=" + speeds, "--benchmark_out_format=json", "--benchmark_min_time=0.2"});
  if (!benchmarks.ok()) return benchmarks.status();
  auto measured = speeds_of(*benchmarks);
  if (!measured.ok()) return measured.status();
  report.speeds = *std::move(measured);
  fmt::print(stderr, "gpu-check: the engine, with KV on the GPU, in host memory and on disk\n");
  auto engine_check = check_engine_on_gpu(engine, options.prompt_tokens);
  if (!engine_check.ok()) return engine_check.status();
  report.engine = *std::move(engine_check);
  report.targets = targets_of(report.speeds, report.engine);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

int check_gpu(const CliOptions& shared, const GpuCheckOptions& options) {
  EngineOptions engine = shared.engine;
  if (engine.model.empty()) engine.model = default_model_path();
  const DeviceName device = parse_device(engine.device).value_or(DeviceName());
  if (!device.is_gpu) engine.device = "cuda";
  const auto gpu = find_cuda_device(device.number);
  if (!gpu.ok()) return fail(gpu.status());
  const auto report = check(engine, options, gpu->name);
  if (!report.ok()) return fail(report.status());
  const std::string markdown = to_markdown(*report);
  if (!options.report_file.empty() && !(std::ofstream(options.report_file) << markdown)) {
    return fail(Status::unavailable(fmt::format("{} could not be written", options.report_file)));
  }
  if (shared.json) {
    print_json(to_json(*report));
  } else {
    fmt::print("{}", markdown);
  }
  return report->is_right() ? kDone : kFailed;
}

}  // namespace

Command add_gpu_check_command(CLI::App& program, CliOptions& shared) {
  auto options = std::make_shared<GpuCheckOptions>();
  CLI::App* app = program.add_subcommand("gpu-check", "Try kernels, copies and the whole engine on this machine's GPU");
  app->add_option("--build-dir", options->build_dir, "Where tiercel was built; its own directory if it is one")
      ->type_name("DIR");
  app->add_option("--report", options->report_file, "Also write the report to this file, as Markdown")
      ->type_name("FILE");
  app->add_option("--prompt-tokens", options->prompt_tokens, "Length of the prompt that hits are measured with")
      ->type_name("N")
      ->check(at_least_one());
  add_shared_options(*app, shared);
  app->footer(
      "Exit status: 0 where everything is computed right, whatever the speed; 1 where it is not, or there is no GPU.\n"
      "Takes a few minutes, and no network.");
  return {app, [=, &shared] { return check_gpu(shared, *options); }};
}

}  // namespace tiercel::cli
