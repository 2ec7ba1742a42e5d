#include "engine/ranked_model.h"

#include <fmt/format.h>

#include "base/logging.h"

namespace tiercel {

RankedModel::RankedModel(std::unique_ptr<Communicator> communicator, std::unique_ptr<ModelRunner> model,
                         std::uint64_t interval_ms)
    : communicator_(std::move(communicator)),
      model_(std::move(model)),
      interval_(interval_ms),
      watcher_([this] { watch(); }) {}

RankedModel::~RankedModel() {
  end();
  watcher_.join();
}

Status RankedModel::begin(std::size_t blocks) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t count = blocks;
  progress_->tell(sent_copies_);
  TIERCEL_RETURN_IF_ERROR(send(RankMessage::Begin, std::as_bytes(std::span(&count, 1))));
  if (const Status status = communicator_->barrier(); !status.ok()) return fail(status);
  progress_->carried_out();
  return {};
}

void RankedModel::copy_block(BlockId from, BlockId to, std::size_t tokens) {
  progress_->copy({.from = from, .to = to, .tokens = static_cast<std::uint32_t>(tokens)});
}

void RankedModel::end() {
  {
    const std::lock_guard lock(mutex_);
    if (has_ended_) return;
    progress_->end();  // no step comes any more, so what reads into blocks need not be waited for
    // Whoever is not there to hear it is no reason to wait longer, or to complain.
    if (send(RankMessage::End).ok()) static_cast<void>(communicator_->barrier());
    has_ended_ = true;
    if (failure_.ok()) failure_ = Status::cancelled("the ranks have been sent home");
  }
  ending_.notify_all();
}

Result<std::span<float>> RankedModel::step(std::span<const SequenceChunk> chunks, std::byte* arena) {
  const std::lock_guard lock(mutex_);
  progress_->tell(sent_copies_);
  write_step(sent_copies_, chunks, bytes_);
  TIERCEL_RETURN_IF_ERROR(send(RankMessage::Step, bytes_));
  auto logits = model_->step(chunks, arena);
  last_said_ = Clock::now();
  if (!logits.ok()) return fail(logits.status());
  progress_->carried_out();
  return logits;
}

Status RankedModel::send(RankMessage message, std::span<const std::byte> bytes) {
  if (!failure_.ok()) return failure_;
  if (const Status status = send_message(*communicator_, message, bytes); !status.ok()) return fail(status);
  last_said_ = Clock::now();
  return {};
}

Status RankedModel::fail(const Status& status) {
  if (!failure_.ok()) return failure_;
  failure_ =
      Status(status.code(), fmt::format("{}; the engine needs all ranks: open it and them anew", status.message()));
  communicator_->abort();
  model_->leave_ranks();
  progress_->end();
  return failure_;
}

void RankedModel::watch() {
  std::unique_lock lock(mutex_);
  while (!has_ended_ && failure_.ok()) {
    if (Clock::now() - last_said_ >= interval_) {
      Status status = send(RankMessage::StillHere);
      if (status.ok()) status = communicator_->barrier();
      if (!status.ok()) log().error("{}", fail(status).message());
    }
    ending_.wait_for(lock, interval_ / 2);
  }
}

}  // namespace tiercel
