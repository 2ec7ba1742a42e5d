#include "replay/counting_store.h"

namespace tiercel {

std::size_t CountingStore::leading(std::span<const BlockKey> keys) const {
  std::size_t known = 0;
  while (known < keys.size() && places_.contains(keys[known])) ++known;
  for (std::size_t i = known; i-- > 0;) keys_.splice(keys_.begin(), keys_, places_.find(keys[i])->second);
  return known;
}

void CountingStore::read(std::span<TierRead> reads) {
  for (TierRead& read : reads) {
    const bool known = places_.contains(read.key);
    read.status = known ? Status() : Status(StatusCode::NotFound, {});
    ++(known ? counts_.read_blocks : counts_.missed_blocks);
  }
}

Status CountingStore::write(std::span<const TierRecord> records) {
  for (const TierRecord& record : records) {
    if (places_.contains(record.key)) continue;
    if (keys_.size() == capacity_blocks_) {
      places_.erase(keys_.back());
      keys_.pop_back();
      ++counts_.evicted_blocks;
    }
    keys_.push_front(record.key);
    places_.emplace(record.key, keys_.begin());
    ++counts_.written_blocks;
  }
  return {};
}

}  // namespace tiercel
