// Many requests at once.
#include "engine/engine_batch.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

namespace tiercel {
namespace {

using Answer = std::pair<std::size_t, Result<Response>>;

// What has been answered and not been looked at yet. A callback may still be at its end when its batch is gone.
struct Answers {
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Answer> list;
};

}  // namespace

std::vector<Result<Response>> process_batch(std::span<const Request> requests, std::size_t most_in_flight,
                                            const std::function<ResponseFuture(Request)>& process,
                                            const BatchProgress& progress) {
  constexpr std::chrono::milliseconds kWhenRejected{5};  // others fill the queue
  const auto answers = std::make_shared<Answers>();
  std::vector<std::optional<Result<Response>>> responses(requests.size());
  std::deque<std::size_t> unsent(requests.size());
  std::iota(unsent.begin(), unsent.end(), std::size_t{0});
  std::vector<Answer> taken;
  std::vector<std::uint32_t> attempts(requests.size());
  std::size_t in_flight = 0, done = 0;
  for (bool queue_is_full = false; done < requests.size();) {
    for (; !queue_is_full && in_flight < most_in_flight && !unsent.empty(); ++in_flight) {
      const std::size_t index = unsent.front();
      unsent.pop_front();
      Request request = requests[index];
      request.attempt = attempts[index]++;
      process(std::move(request)).then([answers, index](Result<Response> response) {
        const std::lock_guard lock(answers->mutex);
        answers->list.emplace_back(index, std::move(response));
        answers->arrived.notify_one();
      });
    }
    {
      std::unique_lock lock(answers->mutex);
      const auto has_arrived = [&] { return !answers->list.empty(); };
      if (in_flight > 0) {
        answers->arrived.wait(lock, has_arrived);
      } else {
        answers->arrived.wait_for(lock, kWhenRejected, has_arrived);
      }
      taken.swap(answers->list);
    }
    queue_is_full = false;
    for (auto& [index, response] : taken) {
      --in_flight;
      if (response.status().code() == StatusCode::Rejected) {
        queue_is_full = true;
        unsent.push_front(index);
      } else {
        responses[index] = std::move(response);
        ++done;
      }
    }
    if (progress && !taken.empty()) progress(done, requests.size());
    taken.clear();
  }
  std::vector<Result<Response>> in_order;
  in_order.reserve(requests.size());
  for (auto& response : responses) in_order.push_back(*std::move(response));
  return in_order;
}

}  // namespace tiercel
