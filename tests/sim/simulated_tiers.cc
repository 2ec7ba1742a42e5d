#include "tests/sim/simulated_tiers.h"

#include <string>
#include <utility>

#include "tier/disk_format.h"
#include "tier/disk_store.h"
#include "tier/memory_store.h"

namespace tiercel::sim {
namespace {

constexpr const char* kDirectory = "/kv";
constexpr std::size_t kRecordBytes = 2 * disk::kPage;  // of the small blocks here

}  // namespace

SimulatedTiers::SimulatedTiers(std::mt19937_64& random, bool keys_collide)
    : random_(random),
      is_small_(below(3) == 0),
      options_({.directory = kDirectory,
                .capacity_bytes = (is_small_ ? 20 : 4000) * kRecordBytes,
                .segment_bytes = 8 * kRecordBytes,
                .codec = below(2) == 0 ? Codec::Raw : Codec::Lossless}),
      memory_options_({.capacity_bytes = std::size_t{1} << (11 + below(5)), .codec = options_.codec}),
      keys_collide_(keys_collide),
      memory_history_(keys_collide),
      disk_history_(keys_collide),
      snapshot_history_(keys_collide) {}

std::vector<std::shared_ptr<TierStore>> SimulatedTiers::make_stores() {
  memory_history_ = StoreHistory(keys_collide_);
  stores_ = {std::make_shared<CheckedStore>(std::make_shared<MemoryStore>(memory_options_), memory_history_),
             std::make_shared<CheckedStore>(std::make_shared<DiskStore>(options_, files_), disk_history_)};
  return {stores_.begin(), stores_.end()};
}

void SimulatedTiers::draw_faults() {
  FileFaults faults{.seed = random_()};
  if (below(2) == 0) faults.error_one_in = 20 + below(40);
  if (below(3) == 0) faults.short_write_one_in = 10;
  if (below(4) == 0) faults.capacity_bytes = (4 + below(40)) * kRecordBytes;
  faults.read_only = below(12) == 0;
  hangs_ = below(3) == 0;
  has_faults_ = true;
  faults.before = [this](FileOperation operation, const std::string&) { before(operation); };
  files_->set_faults(std::move(faults));
}

void SimulatedTiers::end_faults() {
  has_faults_ = hangs_ = false;
  files_->set_faults(
      {.seed = random_(), .before = [this](FileOperation operation, const std::string&) { before(operation); }});
}

void SimulatedTiers::before(FileOperation operation) {
  if (std::exchange(is_within_, true)) return;
  if (snapshot_in_ > 0 && --snapshot_in_ == 0) snapshot(snapshot_of_);
  now_s += 0.0001 * static_cast<double>(below(20));
  if (hangs_ && below(20) == 0) now_s += kDeadline_s * (0.5 + 0.1 * static_cast<double>(below(20)));
  const bool transfers = operation == FileOperation::Read || operation == FileOperation::Write;
  if (meanwhile && transfers && below(8) == 0) meanwhile();
  is_within_ = false;
}

void SimulatedTiers::snapshot(End how) {
  snapshot_in_ = 0;
  snapshot_ = how == End::Kill ? files_->kill(random_()) : files_->crash(random_());
  snapshot_history_ = disk_history_;
}

void SimulatedTiers::snapshot_later(End how, std::uint64_t operations) {
  snapshot_of_ = how;
  snapshot_in_ = operations;
}

void SimulatedTiers::restart() {
  stores_.clear();
  snapshot_in_ = 0;
  if (snapshot_) {
    files_ = std::exchange(snapshot_, nullptr);
    disk_history_ = snapshot_history_;
  }
  disk_history_.restart(/*damaged=*/false);
  end_faults();
}

bool SimulatedTiers::damage() {
  const auto names = files_->list(kDirectory);
  if (!names.ok()) return false;
  for (const std::string& name : *names) {
    const std::string path = std::string(kDirectory) + "/" + name;
    std::vector<std::byte> bytes = files_->contents(path);
    if (bytes.size() < disk::kPage) continue;  // LOCK, and what was torn
    // Where headers, tokens and the small payloads here are: at the beginning of a page.
    for (std::uint64_t left = 1 + below(8); left > 0; --left) {
      const std::uint64_t page = below(bytes.size() / disk::kPage);
      bytes[page * disk::kPage + below(192)] ^= static_cast<std::byte>(1 + below(255));
    }
    files_->set_contents(path, bytes);
    disk_history_.restart(/*damaged=*/true);
    return true;
  }
  return false;
}

std::size_t SimulatedTiers::file_bytes() const {
  const auto names = files_->list(kDirectory);
  std::size_t bytes = 0;
  for (std::size_t i = 0; names.ok() && i < names->size(); ++i) {
    bytes += files_->contents(std::string(kDirectory) + "/" + (*names)[i]).size();
  }
  return bytes;
}

}  // namespace tiercel::sim
