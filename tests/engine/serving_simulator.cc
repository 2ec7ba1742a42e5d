#include "tests/engine/serving_simulator.h"

#include <algorithm>
#include <optional>
#include <random>

#include <fmt/format.h>

#include "engine/request_check.h"
#include "engine/step_loop.h"
#include "tests/engine/fake_model.h"
#include "tests/kv/tier_fixture.h"

namespace tiercel::sim {
namespace {

using Clock = Sequence::Clock;
constexpr std::size_t kRequests = 30;
constexpr std::size_t kMostSteps = 20'000;

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = make_byte_tokenizer();
  return tokenizer;
}

// Takes time, and sees to it that no block is written for two sequences.
class TimedModel final : public ModelRunner {
 public:
  TimedModel(std::size_t max_logit_rows, bool deterministic, std::mt19937_64& random, Clock::time_point& now)
      : fake(max_logit_rows, deterministic), random_(random), now_(now) {}
  const ModelShape& shape() const override { return fake.shape(); }
  const Fingerprint& fingerprint() const override { return fake.fingerprint(); }
  ModelMemory memory() const override { return {}; }
  std::vector<std::pair<std::string, std::string>> kernels() const override { return {}; }
  std::size_t max_logit_rows() const override { return fake.max_logit_rows(); }
  Result<std::span<float>> step(std::span<const SequenceChunk> chunks, std::byte* arena) override {
    std::size_t tokens = 0;
    std::map<BlockId, const BlockId*> written;
    for (const SequenceChunk& chunk : chunks) {
      tokens += chunk.tokens.size();
      for (std::size_t i = chunk.first_position; i < chunk.first_position + chunk.tokens.size(); i += 8 - i % 8) {
        const auto [place, is_first] = written.emplace(chunk.block_table[i / 8], chunk.block_table.data());
        demand(place->second == chunk.block_table.data(), "two sequences write one block");
      }
    }
    const double stall_s = random_() % 50 == 0 ? 0.2 : 0;
    now_ += seconds(0.005 + 0.0005 * static_cast<double>(tokens) + stall_s);
    return fake.step(chunks, arena);
  }

  FakeModel fake;

 private:
  std::mt19937_64& random_;
  Clock::time_point& now_;
};

struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  FinishReason reason = FinishReason::Length;
};

// What one choice of a request is answered where nothing else is there.
Answer alone(const Sequence& asked, bool deterministic) {
  const Request& request = asked.request;
  const std::size_t boundary = (asked.prompt_tokens - 1) / 8 * 8;
  Sampler sampler(request.sampling, kFakeVocabulary);
  std::uint64_t digest = 0;
  std::size_t position = 0;
  const auto read = [&](TokenId token) {
    const Arithmetic arithmetic = !deterministic        ? Arithmetic::Any
                                  : position < boundary ? Arithmetic::Prefill
                                                        : Arithmetic::Decode;
    digest = FakeModel::digest_of(digest, token, position++, arithmetic);
    sampler.observe(token);
  };
  std::ranges::for_each(asked.tokens, read);
  Answer answer;
  while (answer.tokens.size() < asked.most_tokens - asked.prompt_tokens) {
    std::vector<float> logits(kFakeVocabulary, 0.0f);
    logits[static_cast<std::size_t>(FakeModel::next_of(digest))] = 10.0f;
    const TokenId token = sampler.sample(logits);
    if (token == kFakeEnd && !request.ignore_end_of_text) {
      answer.reason = FinishReason::Stop;
      break;
    }
    answer.tokens.push_back(token);
    answer.text += byte_tokenizer().bytes_of(token);
    if (!request.stop.empty() && answer.text.ends_with(request.stop[0])) {
      answer.text.resize(answer.text.size() - request.stop[0].size());
      answer.reason = FinishReason::Stop;
      break;
    }
    read(token);
  }
  return answer;
}

struct Asked {
  ResponseFuture future;
  int answers = 0;
  std::optional<Result<Response>> answer;
  std::vector<Answer> expected;  // by choice
  std::vector<std::string> streamed_text;
  std::vector<std::vector<TokenId>> streamed;
  std::uint32_t n = 1;
  bool has_deadline = false, cancelled = false, dropped = false, too_large = false, scored = false, greedy = true;
  std::size_t prompt_tokens = 0;
};

class History {
 public:
  History(std::uint64_t seed, ServingTally& tally)
      : random_(seed),
        tally_(tally),
        rules_(draw_rules()),
        model_(rules_.limits.max_logit_rows, rules_.limits.deterministic, random_, now_),
        cache_(open_cache()),
        stats_({.tier_names = tier_names()}),
        check_(rules_, cache_),
        loop_(loop_options(), model_, cache_, byte_tokenizer(), stats_) {
    for (int i = 0; i < 4; ++i) stems_.push_back(draw_tokens(60));
  }

  void run() {
    std::size_t idle_turns = 0;
    for (std::size_t step = 0; asked_.size() < kRequests || !loop_.idle(); ++step) {
      demand(step < kMostSteps, "requests never end");
      if (asked_.size() < kRequests && one_in(arrives_one_in_)) {
        for (std::uint64_t burst = one_in(6) ? 1 + random_() % 6 : 1; burst > 0 && asked_.size() < kRequests; --burst)
          ask();
      }
      interfere();
      bool moved = loop_.run_one();
      if (TierManager* tiers = KvCacheState::of(cache_).tiers()) {
        for (std::uint64_t turns = random_() % 4; turns > 0; --turns) moved = tiers->run_one() || moved;
      }
      if (!moved) now_ += seconds(0.05);
      idle_turns = moved || asked_.size() < kRequests ? 0 : idle_turns + 1;
      demand(idle_turns < 2000, "requests wait, and nothing moves");
      const EngineStats s = stats_.snapshot();
      demand(s.submitted == s.completed + s.failed + s.timed_out + s.cancelled + s.rejected + s.queued + s.running,
             "requests do not add up");
      if (step >= close_at_) break;
    }
    if (close_at_ == SIZE_MAX) fill_queue();
    loop_.close();
    finish();
  }

 private:
  bool one_in(std::uint64_t n) { return random_() % n == 0; }
  std::vector<TokenId> draw_tokens(std::size_t count) {
    std::vector<TokenId> tokens(count);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random_() % 256);
    return tokens;
  }

  StepRules draw_rules() {
    blocks_ = 10 + random_() % 50;
    prefix_reuse_ = !one_in(4);
    priorities_ = one_in(3) ? 1 : 2 + random_() % 3;
    tiers_ = prefix_reuse_ ? random_() % 3 : 0;
    arrives_one_in_ = 1 + random_() % 6;
    close_at_ = one_in(20) ? 20 + random_() % 100 : SIZE_MAX;
    const std::size_t sequences = 1 + random_() % 5;
    StepRules rules{.limits = {.max_sequences = sequences,
                               .max_tokens = sequences + random_() % 40,
                               .max_logit_rows = sequences + 1 + random_() % 8,
                               .deterministic = one_in(2),
                               .target_step_s = one_in(2) ? 0.02 : 0,
                               .aging_s = one_in(3) ? 1e6 : 0.1 + 0.1 * static_cast<double>(random_() % 30)},
                    .max_queued_sequences = one_in(4) ? 2 + random_() % 4 : 1000,
                    .quota_blocks = one_in(3) ? 6 + random_() % blocks_ : 0,
                    .passes_by_prefix = prefix_reuse_};
    rules.limits.max_tokens = std::max<std::size_t>(rules.limits.max_tokens, 2);
    return rules;
  }

  KvCache open_cache() {
    KvCacheOptions options{.capacity_bytes = blocks_ * FakeModel::layout().block_bytes(),
                           .prefix_reuse = prefix_reuse_,
                           .tenant_quota_bytes = rules_.quota_blocks * FakeModel::layout().block_bytes(),
                           .tier_deadline_ms = 1000};
    for (std::size_t i = 0; i < tiers_; ++i) {
      auto store = std::make_shared<FaultyStore>(
          (4 + random_() % 200) * MemoryStore::taken_bytes(FakeModel::layout().block_bytes(), FakeModel::layout()));
      const double read_s = one_in(3) ? 0.01 : 0.0001, write_s = one_in(3) ? 0.05 : 0.0001;
      store->before_read = [this, read_s](std::size_t count) { now_ += seconds(read_s * static_cast<double>(count)); };
      store->before_write = [this, write_s] { now_ += seconds(one_in(40) ? 2 : write_s); };
      store->fail_read_one_in = one_in(4) ? 10 : 0;
      store->fail_write_one_in = one_in(4) ? 10 : 0;
      store->damage_one_in = one_in(4) ? 10 : 0;
      stores_.push_back(store);
      options.tiers.push_back(std::move(store));
    }
    const auto now_s = [this] { return std::chrono::duration<double>(now_.time_since_epoch()).count(); };
    return KvCacheState::open(options, FakeModel::layout(), {}, {},
                              {.now_ms = [now_s] { return static_cast<std::uint64_t>(1e3 * now_s()); },
                               .tier_now_s = now_s,
                               .background_thread = false})
        .value();
  }

  std::vector<std::string> tier_names() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < tiers_; ++i) names.push_back(fmt::format("tier {}", i));
    return names;
  }

  StepLoopOptions loop_options() {
    return {.limits = rules_.limits,
            .max_queued_requests = rules_.max_queued_sequences,
             .max_draft_tokens = blocks_ % 6,
             .tier_names = tier_names(),
            .by_hand = true,
            .now = [this] { return now_; },
            .on_step =
                [this](const Scheduler& scheduler, const Scheduler::Step& step) {
                  check_.check(scheduler, step);
                  tally_.preempted += step.preempted.size();
                  tally_.demoted += step.demoted.size();
                }};
  }

  std::vector<TokenId> draw_prompt() {
    if (!prefix_reuse_ || one_in(4)) return draw_tokens(1 + random_() % 60);
    std::vector<TokenId> prompt = stems_[random_() % stems_.size()];
    if (one_in(2)) prompt.resize(1 + random_() % prompt.size());
    const std::vector<TokenId> tail = draw_tokens(random_() % 10);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    return prompt;
  }

  void ask() {
    Request request{.priority = static_cast<int>(random_() % priorities_),
                    .tokens = draw_prompt(),
                    .max_tokens = static_cast<std::uint32_t>(random_() % 25)};
    request.ignore_end_of_text = one_in(2);
    if (one_in(3)) request.cache_salt = one_in(2) ? "one" : "two";
    if (one_in(10)) request.timeout_ms = 1 + random_() % 600;
    if (one_in(20)) request.deadline = now_ + seconds(0.001 * static_cast<double>(random_() % 600));
    request.cancel_when_dropped = one_in(2);
    if (request.max_tokens > 0 && one_in(8)) {
      request.n = 1 + random_() % 3;
      request.best_of = request.n + random_() % 2;
      request.sampling = {.temperature = 1.0f, .seed = random_()};
    } else if (one_in(10)) {
      request.prompt_logprobs = true;
    }
    if (one_in(4) && request.sampling.temperature == 0)
      request.stop = {std::string(1, static_cast<char>('a' + random_() % 26)) + "e"};
    // The first ones have statistics of their own.
    request.endpoint = fmt::format("{}", asked_.size());
    asked_.push_back(std::make_unique<Asked>());
    Asked& asked = *asked_.back();
    const std::size_t drawn = std::max(request.n, request.best_of);
    asked.streamed.resize(drawn);
    asked.streamed_text.resize(drawn);
    request.on_token = [&asked](const TokenEvent& event) {
      demand(asked.answers == 0, "a token comes after the answer");
      if (event.token != kNoToken) asked.streamed[event.choice].push_back(event.token);
      asked.streamed_text[event.choice] += event.text;
    };
    asked.n = request.n;
    asked.has_deadline = request.timeout_ms > 0 || request.deadline;
    asked.scored = request.prompt_logprobs;
    asked.greedy = request.sampling.temperature == 0;
    auto prompt = check_request(request, {byte_tokenizer(), chat_template_, kFakeVocabulary, 4096});
    demand(prompt.ok(), prompt.status().to_string());
    asked.prompt_tokens = prompt->size();
    auto choices = make_sequences(std::move(request), std::move(*prompt), 4096, now_);
    for (const auto& choice : choices) asked.expected.push_back(alone(*choice, rules_.limits.deterministic));
    const std::size_t most_blocks = rules_.quota_blocks > 0 ? std::min(blocks_, rules_.quota_blocks) : blocks_;
    asked.too_large = FakeModel::layout().blocks_for(choices.front()->most_tokens) > most_blocks;
    asked.future = ResponseFuture(choices.front()->promise);
    const bool too_many = choices.size() > rules_.max_queued_sequences;
    loop_.submit(std::move(choices));
    if (too_many) demand(asked.future.ready(), "what can never be queued waits");
    if (one_in(3)) {
      asked.future.then([&asked](Result<Response> response) {
        ++asked.answers;
        asked.answer.emplace(std::move(response));
      });
    }
  }

  // Where nobody is left, the queue is as long as at the beginning.
  void fill_queue() {
    for (std::size_t i = 0; rules_.max_queued_sequences < kRequests && i <= rules_.max_queued_sequences; ++i) {
      Request request{.tokens = {1}, .max_tokens = 1, .endpoint = "queue"};
      auto choices = make_sequences(std::move(request), {1}, 4096, now_);
      const ResponseFuture future(choices.front()->promise);
      loop_.submit(std::move(choices));
      demand(future.ready() == (i == rules_.max_queued_sequences),
             future.ready() ? "rejected by an empty queue" : "the queue is longer than it may be");
      ++fillers_;
    }
  }

  // Cancels, drops, or lets a step fail.
  void interfere() {
    if (asked_.empty()) return;
    Asked& asked = *asked_[random_() % asked_.size()];
    if (one_in(40)) model_.fake.fail_next_step = one_in(4);
    if (!asked.future.valid() || asked.future.ready() || !one_in(30)) return;
    if (one_in(2)) {
      asked.cancelled = true;
      asked.future.cancel();
    } else {
      asked.dropped = true;
      asked.future = ResponseFuture();
    }
  }

  void finish() {
    for (const auto& asked : asked_) {
      if (asked->dropped) continue;
      if (asked->future.valid()) {
        demand(asked->future.ready(), "a request has no answer");
        asked->answer.emplace(asked->future.get());
        ++asked->answers;
      }
      demand(asked->answers == 1, fmt::format("a request has {} answers", asked->answers));
      check_answer(*asked, *asked->answer);
    }
    const EngineStats s = stats_.snapshot();
    demand(s.submitted == asked_.size() + fillers_ && s.queued + s.running == 0, "a request is lost");
    demand(s.submitted == s.completed + s.failed + s.timed_out + s.cancelled + s.rejected,
           "a request ends in two outcomes, or none");
    for (const EndpointStats& endpoint : s.endpoints) check_tokens(endpoint);
    now_ += seconds(1);  // whatever a tier still holds is not worth waiting for
    const KvCacheStats c = cache_.stats();
    demand(c.leased_blocks == 0 && c.promised_blocks == 0,
           fmt::format("{} blocks are still held, {} promised", c.leased_blocks, c.promised_blocks));
    demand(c.free_blocks + c.cached_blocks == c.capacity_blocks, "blocks are lost");
    const std::string audit = KvCacheState::of(cache_).audit();
    demand(audit.empty(), audit);
    for (std::size_t i = 0; i < tiers_; ++i) {
      demand(c.tiers[i].store.stored_bytes == stores_[i]->inner.counted_bytes(), "bytes of a tier do not add up");
    }
    tally_.loaded_blocks += c.loaded_blocks;
    tally_.reused_tokens += s.reused_tokens;
    tally_.drafted_tokens += s.drafted_tokens;
    tally_.accepted_tokens += s.accepted_tokens;
    tally_.overtakings += check_.overtakings();
    tally_.held_by_quota += check_.held();
  }

  // Each prompt token counts once, where it came from, whatever its request went through.
  void check_tokens(const EndpointStats& endpoint) const {
    if (endpoint.endpoint == "other" || endpoint.endpoint == "queue") return;
    const Asked& asked = *asked_[std::stoul(endpoint.endpoint)];
    const bool answered = asked.answer && asked.answer->ok();
    demand(answered ? endpoint.prompt_tokens == asked.prompt_tokens : endpoint.prompt_tokens <= asked.prompt_tokens,
           fmt::format("{} of {} prompt tokens are counted", endpoint.prompt_tokens, asked.prompt_tokens));
    if (!answered || (*asked.answer)->preemptions > 0) return;  // what is found after a preemption is not the answer's
    const Response& response = **asked.answer;
    demand(endpoint.reused_tokens == response.reused_tokens, "statistics and answer tell of other reused tokens");
    for (std::size_t i = 0; i < endpoint.hits.size(); ++i) {
      demand(response.reused_by_tier[i] ==
                 std::pair(endpoint.hits[i].tier, static_cast<std::uint32_t>(endpoint.hits[i].tokens)),
             "statistics and answer tell of tokens from other tiers");
    }
  }

  void check_answer(const Asked& asked, const Result<Response>& answer) {
    const bool closed = close_at_ != SIZE_MAX;
    switch (answer.status().code()) {
      case StatusCode::Ok: break;
      case StatusCode::Cancelled: ++tally_.cancelled; return demand(asked.cancelled || closed, "cancelled by nobody");
      case StatusCode::DeadlineExceeded: ++tally_.late; return demand(asked.has_deadline, "late without a deadline");
      case StatusCode::Internal: ++tally_.failed; return;
      case StatusCode::Rejected:
        ++tally_.rejected;
        return demand(rules_.max_queued_sequences < kRequests, "rejected by an empty queue");
      case StatusCode::ResourceExhausted: ++tally_.too_large; return demand(asked.too_large, "refused though it fits");
      case StatusCode::InvalidArgument:
        return demand(asked.expected.size() > rules_.max_queued_sequences, "refused though it can be queued");
      default: throw ServingViolation(answer.status().to_string());
    }
    ++tally_.completed;
    demand(!asked.too_large, "it fits no cache");
    const Response& response = *answer;
    demand(response.reused_tokens < asked.prompt_tokens, "the whole prompt is reused");
    if (asked.scored) demand(response.prompt_logprobs.size() == asked.prompt_tokens - 1, "a prompt is not scored");
    std::vector<Choice> choices = response.choices;
    if (asked.expected.size() == 1) {
      choices = {{.text = response.text,
                  .tokens = response.tokens,
                  .logprobs = response.logprobs,
                  .finish_reason = response.finish_reason}};
    } else {
      ++tally_.choices;
    }
    demand(choices.size() == asked.n, "not as many choices as were asked for");
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const auto is_it = [&](const Answer& expected) { return expected.tokens == choices[i].tokens; };
      const auto place = asked.expected.size() == asked.n ? asked.expected.begin() + static_cast<std::ptrdiff_t>(i)
                                                          : std::ranges::find_if(asked.expected, is_it);
      demand(place != asked.expected.end() && is_it(*place), "other tokens than alone");
      demand(place->reason == choices[i].finish_reason, "it ends for another reason than alone");
      demand(choices[i].logprobs.size() == choices[i].tokens.size(), "a token without its probability");
      if (asked.greedy) demand(place->text == choices[i].text, "other text than alone");
      const auto which = static_cast<std::size_t>(place - asked.expected.begin());
      demand(asked.streamed[which] == choices[i].tokens, "a token was told twice, or not");
      demand(asked.streamed_text[which] == choices[i].text, "the pieces do not join to the text");
    }
  }

  std::mt19937_64 random_;
  ServingTally& tally_;
  Clock::time_point now_ = Clock::time_point(seconds(1000));
  std::size_t blocks_ = 0, tiers_ = 0, close_at_ = SIZE_MAX;
  std::uint64_t priorities_ = 1, arrives_one_in_ = 1;
  bool prefix_reuse_ = true;
  const StepRules rules_;
  std::optional<ChatTemplate> chat_template_;
  std::vector<std::vector<TokenId>> stems_;
  std::vector<std::shared_ptr<FaultyStore>> stores_;
  std::vector<std::unique_ptr<Asked>> asked_;
  std::size_t fillers_ = 0;
  TimedModel model_;
  KvCache cache_;
  StatsRecorder stats_;
  StepCheck check_;
  StepLoop loop_;
};

}  // namespace

void run_serving_history(std::uint64_t seed, ServingTally& tally) { History(seed, tally).run(); }

}  // namespace tiercel::sim
