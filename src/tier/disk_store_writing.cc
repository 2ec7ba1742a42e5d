// The half of the disk tier that writes: new blocks, erasures, and room for them.
#include <algorithm>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "base/logging.h"
#include "tier/disk_store.h"

namespace tiercel {
namespace {

using disk::FooterEntry;
using disk::RecordHeader;
using disk::RecordKind;

Status no_memory() { return Status(StatusCode::Unavailable, {}); }

}  // namespace

Status DiskStore::write(std::span<const TierRecord> records) try {
  if (options_.read_only) return {};
  const std::lock_guard write_lock(write_mutex_);
  for (const TierRecord& record : records) {
    if (record.bytes.size() != block_bytes_) {
      return Status::invalid_argument(
          fmt::format("a KV block of {} bytes does not fit the layout of the disk tier", record.bytes.size()));
    }
    {
      const std::lock_guard lock(index_mutex_);
      if (index_->find(disk::DiskIndex::Asked(record)) != nullptr) continue;
    }
    TIERCEL_RETURN_IF_ERROR(write_block(record));
  }
  return {};
} catch (const std::bad_alloc&) {
  return no_memory();
}

Status DiskStore::write_block(const TierRecord& record) {
  const BlockCodec& codec = *codec_of_[static_cast<std::size_t>(options_.codec)];
  std::span<const std::byte> payload = record.bytes;
  if (options_.codec != Codec::Raw) {
    const auto encoded = encoded_.take(codec.max_encoded_bytes());
    payload = encoded.first(codec.encode(record.bytes, encoded, *write_workspace_));
  }
  RecordHeader header{};
  header.kind = RecordKind::Block;
  header.flags = record.copyable ? disk::kCopyable : 0;
  header.key = record.key;
  header.parent = record.parent;
  header.tenant = record.tenant;
  header.adapter_id = record.adapter_id;
  header.tokens = static_cast<std::uint32_t>(record.tokens.size());
  header.codec = options_.codec;
  header.position = record.position;
  {
    const std::lock_guard lock(index_mutex_);
    header.sequence = index_->sequence_of_lost(record.key, record.parent).value_or(0);
  }
  TIERCEL_RETURN_IF_ERROR(append(header, std::as_bytes(record.tokens), payload));
  const std::lock_guard lock(index_mutex_);
  ++counts_.written_blocks;
  counts_.written_bytes += header.record_bytes();
  return {};
}

Status DiskStore::append(RecordHeader& header, std::span<const std::byte> tokens, std::span<const std::byte> payload) {
  header.fingerprint = fingerprint_;
  if (header.sequence == 0) header.sequence = ++sequence_;
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  if (cipher_) {
    auto nonce = cipher_->random_nonce();
    if (!nonce.ok()) return nonce.status();
    header.flags |= disk::kEncrypted;
    header.encryption_key = cipher_->key_name();
    header.nonce = *nonce;
    disk::seal(header);  // magic and version are authenticated too
    const auto copy = copied_.take(tokens.size() + payload.size());
    std::ranges::copy(payload, std::ranges::copy(tokens, copy.begin()).out);
    const auto own_tokens = copy.first(tokens.size()), own_payload = copy.subspan(tokens.size());
    const auto associated = std::as_bytes(std::span(&header, 1)).first(disk::kAssociatedBytes);
    auto tag = cipher_->encrypt(*nonce, associated, own_tokens, own_payload);
    if (!tag.ok()) return tag.status();
    header.tag = *tag;
    tokens = own_tokens;
    payload = own_payload;
  }
  header.token_hash = disk::hash_of(tokens);
  header.payload_hash = disk::hash_of(payload);
  disk::seal(header);
  Status status = append_whole(header, tokens, payload);
  if (status.code() == StatusCode::ResourceExhausted && log_->oldest()) {
    // Others fill this disk too: the oldest of ours goes, all of it.
    TIERCEL_RETURN_IF_ERROR(give_back_oldest(/*keep_used=*/false));
    status = append_whole(header, tokens, payload);
  }
  if (!status.ok()) {
    const std::lock_guard lock(index_mutex_);
    ++counts_.errors;
  }
  return status;
}

Status DiskStore::append_whole(const RecordHeader& header, std::span<const std::byte> tokens,
                               std::span<const std::byte> payload) {
  while (log_->needs_room(header.record_bytes()) && log_->oldest()) {
    TIERCEL_RETURN_IF_ERROR(give_back_oldest(/*keep_used=*/true));
  }
  auto appended = log_->append(header, tokens, payload);
  if (header.kind == RecordKind::Block) {
    const std::lock_guard lock(index_mutex_);
    if (appended.ok()) {
      index_->insert(appended->segment, appended->entry);
    } else {
      index_->insert_lost(disk::entry_of(header, 0));  // all of it may be there
    }
  }
  Status status = appended.status();
  if (status.ok() && log_->is_sync_due()) status = sync();
  const std::lock_guard lock(index_mutex_);
  counts_.stored_bytes = log_->file_bytes();
  return status;
}

Status DiskStore::give_back_oldest(bool keep_used) {
  const std::shared_ptr<disk::Segment> segment = log_->oldest();
  std::vector<FooterEntry> entries;
  if (const auto file = files_.open(segment->number); file.ok()) {
    auto records = disk::read_segment(files_.system(), **file, segment->number, /*verify=*/false);
    if (records.ok()) entries = std::move(records->entries);
  }
  std::vector<FooterEntry> moved;
  if (keep_used) moved = move_used(*segment, entries);
  // What was moved is safe before it goes from here.
  if (!moved.empty()) {
    if (Status failed = sync(); !failed.ok()) {
      const std::lock_guard lock(index_mutex_);
      for (const FooterEntry& entry : moved) index_->insert(segment, entry);
      return failed;
    }
  }
  Status dropped = log_->drop_oldest();
  const std::lock_guard lock(index_mutex_);
  counts_.stored_bytes = log_->file_bytes();
  if (dropped.ok()) {
    counts_.evicted_blocks +=
        entries.empty() ? index_->remove_segment(*segment) : index_->remove(index_->keys_in(*segment, entries));
  } else if (log_->oldest() != segment) {
    counts_.evicted_blocks += index_->lose_from(*segment, 0);  // its file may come back with the next process
  }
  return dropped;
}

std::vector<FooterEntry> DiskStore::move_used(const disk::Segment& segment, std::span<const FooterEntry> entries) {
  std::vector<FooterEntry> used, moved;
  {
    const std::lock_guard lock(index_mutex_);
    used = index_->used_in(segment, entries);
  }
  const auto file = files_.open(segment.number);
  if (used.empty() || !file.ok()) return {};
  moved.reserve(used.size());
  // At most half of it, so that room is made in any case. Parents come before their children, and are kept first.
  std::size_t room = segment.bytes / 2;
  for (const FooterEntry& entry : used) {
    if (entry.record_bytes() > room) break;
    auto record = disk::read_record(files_.system(), **file, entry, copied_.take(entry.record_bytes()));
    if (!record.ok()) continue;
    const auto tokens = record->head.subspan(sizeof(RecordHeader), entry.tokens * sizeof(TokenId));
    auto appended = log_->append(record->header, tokens, record->payload.first(entry.payload_bytes));
    if (!appended.ok()) break;
    room -= entry.record_bytes();
    moved.push_back(entry);
    const std::lock_guard lock(index_mutex_);
    index_->insert(appended->segment, appended->entry);
  }
  return moved;
}

Status DiskStore::sync() {
  std::vector<disk::SegmentLog::Lost> lost;
  Status status = log_->sync(lost);
  if (status.ok()) return status;
  log().error("the disk tier cannot be synced: {}; what was written since is computed again", status.message());
  const std::lock_guard lock(index_mutex_);
  ++counts_.errors;
  for (const auto& part : lost) index_->lose_from(*part.segment, part.from);
  return status;
}

// ---- Forgetting

Status DiskStore::erase(const BlockKey& parent, std::span<const TokenId> tokens) try {
  const std::lock_guard write_lock(write_mutex_);
  std::vector<disk::DiskIndex::Place> children;
  {
    const std::lock_guard lock(index_mutex_);
    children = index_->children_of(parent);
  }
  std::vector<BlockKey> keys;
  for (const disk::DiskIndex::Place& child : children) {
    if (may_begin_with(child, tokens)) keys.push_back(child.entry.key);
  }
  {
    const std::lock_guard lock(index_mutex_);
    keys = index_->with_descendants(std::move(keys));
    counts_.erased_blocks += index_->lose(keys);
  }
  if (keys.empty()) return {};
  TIERCEL_RETURN_IF_ERROR(append_erasure(RecordKind::ErasedKeys, 0, keys));
  const std::lock_guard lock(index_mutex_);
  index_->remove(keys);
  return {};
} catch (const std::bad_alloc&) {
  return no_memory();
}

bool DiskStore::may_begin_with(const disk::DiskIndex::Place& place, std::span<const TokenId> tokens) {
  if (tokens.empty() || !place.segment) return true;
  const FooterEntry& entry = place.entry;
  if (entry.tokens < tokens.size()) return false;
  const auto file = files_.open(place.segment->number);
  if (!file.ok()) return true;
  const std::span<std::byte> head = head_.take(entry.head_bytes());
  const auto header = disk::read_head(files_.system(), **file, entry, head);
  if (!header.ok()) return true;
  const std::span<std::byte> own = head.subspan(sizeof(RecordHeader), entry.tokens * sizeof(TokenId));
  if ((entry.flags & disk::kEncrypted) != 0 &&
      !cipher_->decrypt_unproven(header->nonce, head.first(disk::kAssociatedBytes), own)) {
    return true;
  }
  return std::ranges::equal(own.first(tokens.size_bytes()), std::as_bytes(tokens));
}

Status DiskStore::erase_tenant(std::uint64_t tenant) try {
  const std::lock_guard write_lock(write_mutex_);
  {
    const std::lock_guard lock(index_mutex_);
    counts_.erased_blocks += index_->lose_tenant(tenant);
  }
  TIERCEL_RETURN_IF_ERROR(append_erasure(RecordKind::ErasedTenant, tenant, {}));
  const std::lock_guard lock(index_mutex_);
  index_->remove_lost_of_tenant(tenant);
  return {};
} catch (const std::bad_alloc&) {
  return no_memory();
}

Status DiskStore::erase_all() try {
  const std::lock_guard write_lock(write_mutex_);
  {
    const std::lock_guard lock(index_mutex_);
    counts_.erased_blocks += index_->lose_all();
  }
  TIERCEL_RETURN_IF_ERROR(append_erasure(RecordKind::ErasedFingerprint, 0, {}));
  const std::lock_guard lock(index_mutex_);
  index_->remove_all_lost();
  return {};
} catch (const std::bad_alloc&) {
  return no_memory();
}

Status DiskStore::append_erasure(RecordKind kind, std::uint64_t tenant, std::span<const BlockKey> keys) {
  if (!log_) {
    const std::lock_guard lock(index_mutex_);
    forgets_ = true;  // what the files say is no longer what was asked for
    return Status::unavailable(
        fmt::format("{} was opened to be read only: what was forgotten stays in its files", options_.directory));
  }
  // A record has at most half of a segment.
  const std::size_t most = std::max<std::size_t>(1, log_->segment_bytes() / 2 / sizeof(BlockKey) - 1024);
  do {
    const auto part = keys.first(std::min(most, keys.size()));
    RecordHeader header{};
    header.kind = kind;
    header.tenant = tenant;
    TIERCEL_RETURN_IF_ERROR(append_erased(header, std::as_bytes(part)));
    keys = keys.subspan(part.size());
  } while (!keys.empty());
  return sync();
}

Status DiskStore::append_erased(RecordHeader& header, std::span<const std::byte> keys) {
  // Keys are no secret, and must be read without the key that encrypts.
  header.fingerprint = fingerprint_;
  header.sequence = ++sequence_;
  header.payload_bytes = static_cast<std::uint32_t>(keys.size());
  header.token_hash = disk::hash_of({});
  header.payload_hash = disk::hash_of(keys);
  disk::seal(header);
  return append_whole(header, {}, keys);
}

Status DiskStore::flush() try {
  if (options_.read_only) return {};
  const std::lock_guard write_lock(write_mutex_);
  return log_ ? sync() : Status();
} catch (const std::bad_alloc&) {
  return no_memory();
}

TierStats DiskStore::stats() const {
  const std::lock_guard lock(index_mutex_);
  TierStats stats = counts_;
  stats.stored_blocks = index_ ? index_->size() : 0;
  return stats;
}

}  // namespace tiercel
