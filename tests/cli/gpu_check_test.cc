// What `tiercel gpu-check` makes of what its parts say. Its engine part is tried on the CPU, which is held to itself.
#include "cli/gpu_check.h"

#include <gtest/gtest.h>

#include "tests/model/test_model.h"

namespace tiercel::cli {
namespace {

TEST(GpuCheckReport, FailedTestsAreNamed) {
  const auto check = kernel_check_of(R"({"tests": 3, "testsuites": [
      {"name": "CudaGroupLinear", "testsuite": [{"name": "Small"}, {"name": "Ragged", "failures": [{"failure": "..."}]}]},
      {"name": "Seeds/DeviceLlamaTest", "testsuite": [{"name": "Logits/0"}]}]})");
  ASSERT_TRUE(check.ok());
  EXPECT_EQ(check->tests, 3u);
  EXPECT_EQ(check->failed, std::vector<std::string>{"CudaGroupLinear.Ragged"});
  EXPECT_FALSE(kernel_check_of("{}").ok());
  EXPECT_FALSE(kernel_check_of("no JSON").ok());
}

TEST(GpuCheckReport, TargetsAreOfTheirCases) {
  const auto speeds = speeds_of(R"({"benchmarks": [
      {"name": "peak/memory/iterations:1/manual_time", "real_time": 2.0, "time_unit": "ms", "bytes/s": 4e12},
      {"name": "attention/decode/32/8192/manual_time", "real_time": 250.0, "time_unit": "us", "bytes/s": 3.4e12, "share": 0.85},
      {"name": "blocks/load/64/manual_time", "real_time": 5.0, "time_unit": "us", "bytes/s": 5e10, "share": 0.8},
      {"name": "blocks/save/64/manual_time", "error_occurred": true}]})");
  ASSERT_TRUE(speeds.ok());
  ASSERT_EQ(speeds->size(), 3u);
  EXPECT_EQ(speeds->front().name, "peak/memory");
  EXPECT_EQ(speeds->front().time_us, 2000);
  const auto targets = targets_of(*speeds, {.prompt_tokens = 8000, .cold_ttft_ms = 100, .host_hit_ttft_ms = 12});
  ASSERT_EQ(targets.size(), 3u);
  EXPECT_TRUE(targets[0].met());   // attention, 0.85 of 0.8
  EXPECT_FALSE(targets[1].met());  // loads, 0.8 of 0.85
  EXPECT_FALSE(targets[2].met());  // 0.12 of at most 0.1
  EXPECT_FALSE(speeds_of("[]").ok());
}

TEST(GpuCheckReport, IsRightOnlyWhereEverythingIs) {
  GpuCheckReport report{
      .gpu = "a GPU", .kernels = {.tests = 5}, .engine = {.agrees_with_cpu = true, .hits_agree = true}};
  EXPECT_TRUE(report.is_right());
  EXPECT_NE(to_markdown(report).find("Everything is computed right"), std::string::npos);
  for (const auto& spoil :
       {+[](GpuCheckReport& r) { r.kernels.tests = 0; }, +[](GpuCheckReport& r) { r.kernels.failed = {"X.Y"}; },
        +[](GpuCheckReport& r) { r.engine.agrees_with_cpu = false; },
        +[](GpuCheckReport& r) { r.engine.hits_agree = false; }}) {
    GpuCheckReport spoilt = report;
    spoil(spoilt);
    EXPECT_FALSE(spoilt.is_right());
    EXPECT_EQ(to_json(spoilt)["right"], false);
    EXPECT_NE(to_markdown(spoilt).find("Something is wrong"), std::string::npos);
  }
}

TEST(GpuEngineCheck, FindsKvWhereItWasSent) {
  REQUIRE_TEST_MODEL();
  const auto check = check_engine_on_gpu({.model = test_model_path(), .device = "cpu"}, 700);
  ASSERT_TRUE(check.ok()) << check.status().to_string();
  EXPECT_TRUE(check->agrees_with_cpu);
  EXPECT_TRUE(check->hits_agree) << check->remarks.front();
  EXPECT_GE(check->prompt_tokens, 700u);
  for (const double figure : {check->cold_ttft_ms, check->device_hit_ttft_ms, check->host_hit_ttft_ms,
                              check->disk_hit_ttft_ms, check->decode_tokens_per_s}) {
    EXPECT_GT(figure, 0);
  }
}

}  // namespace
}  // namespace tiercel::cli
