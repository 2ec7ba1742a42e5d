#include "engine/response_promise.h"

#include <memory>
#include <thread>

#include <gtest/gtest.h>

namespace tiercel {
namespace {

TEST(ResponsePromise, AFutureWaitsForItsValueAndGivesItOnce) {
  auto promise = std::make_shared<ResponsePromise>();
  ResponseFuture future(promise);
  EXPECT_FALSE(future.ready());
  EXPECT_FALSE(future.wait_for(std::chrono::milliseconds(1)));
  std::thread setter([&] { promise->set(Response{.text = "done"}); });
  EXPECT_EQ(future.get()->text, "done");
  setter.join();
  EXPECT_FALSE(future.valid());
  EXPECT_EQ(ResponseFuture(promise).get().status().code(), StatusCode::Internal) << "taken twice";
}

TEST(ResponsePromise, AContinuationRunsBeforeOrAfterTheValue) {
  for (const bool value_first : {true, false}) {
    auto promise = std::make_shared<ResponsePromise>();
    ResponseFuture future(promise);
    std::string got;
    if (value_first) promise->set(Response{.text = "x"});
    future.then([&](Result<Response> response) { got = response->text; });
    if (!value_first) {
      EXPECT_EQ(got, "");
      promise->set(Response{.text = "x"});
    }
    EXPECT_EQ(got, "x");
  }
}

TEST(ResponsePromise, AFutureOutlivesTheEnginesSide) {
  auto promise = std::make_shared<ResponsePromise>();
  ResponseFuture future(promise);
  promise->set(Status::cancelled("gone"));
  promise.reset();
  EXPECT_EQ(future.get().status().code(), StatusCode::Cancelled);
}

}  // namespace
}  // namespace tiercel
