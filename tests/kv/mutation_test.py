"""Plants bugs in the KV core and demands that its tests see every one.

    mutation_test.py [--part core|tiers] --source DIR --work DIR --compile "COMPILER FLAGS" --link COMPILER --libraries "FILES" \\
                     --objects PROGRAM="FILES" [--objects ...] --again COMMAND

Each mutant replaces one piece of one file of src/kv, or of src/tier. The mutated file alone is compiled, without assertions, and linked before the
library, whose own version of it is then not taken. It names the programs that must see it: the cases of tests/kv, the random
histories of tests/sim, those in which memory runs out, those with tiers, or the faults of the disk in tests/tier. A mutant that compiles and passes in one of them has survived, and fails
this test; so does one whose text is not found exactly once, which means that the code went on without it. An eighth of them is planted,
or what TIERCEL_MUTANTS in the environment says: tests/mutant_choice.py.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.mutant_choice import chosen  # noqa: E402

CASES, HISTORIES, FAULTS = "kv_test", "sim_test", "sim_fault_test"
TIERS, DISK = "sim_tier_test", "disk_test"
BOTH = (CASES, HISTORIES)

# (what it is, file, text, replacement, programs that must see it)
MUTANTS = [
    # ---- References, and blocks given back
    ("a lease that ends keeps a reference", "kv_cache_lease.cc",
     "use(block, lease.retention, now);\n      drop(block);",
     "use(block, lease.retention, now);\n      if (table.size() != 1) drop(block);", BOTH),
    ("a lease that ends drops a shared reference twice", "kv_cache_lease.cc",
     "use(block, lease.retention, now);\n      drop(block);",
     "use(block, lease.retention, now);\n      if (pool_.references(block) > 1) drop(block);\n      drop(block);", BOTH),
    ("a matched block is not held", "kv_cache_admission.cc",
     "for (const BlockId block : lease->blocks) hold(block);",
     "for (const BlockId block : lease->blocks) static_cast<void>(block);", BOTH),
    ("a duplicate that is given up is not dropped", "kv_cache_lease.cc",
     "    hold(equal);\n    drop(std::exchange(own, equal));\n  }\n  if (groups_",
     "    hold(equal);\n    own = equal;\n  }\n  if (groups_", HISTORIES),
    ("a block is given back twice", "kv_cache_eviction.cc",
     "  if (!index_.contains(block)) {\n    give_back(block);",
     "  if (!index_.contains(block)) {\n    give_back(block);\n    give_back(block);", BOTH),
    ("promises are not returned", "kv_cache_lease.cc", "  pool_.return_promises(lease.promised_blocks);\n", "", BOTH),
    ("an admission forgets what it will newly hold", "kv_cache_admission.cc",
     "const std::size_t wanted = new_blocks + newly_held;",
     "const std::size_t wanted = new_blocks + 0 * newly_held;", HISTORIES),
    ("a fork shares the block begun", "kv_cache_admission.cc",
     "      table.push_back(take_promised_block(lease->tenant));\n      --lease->promised_blocks;\n      "
     "TIERCEL_RETURN_IF_ERROR(copy_leading_tokens(from[full_blocks], table.back(), begun_tokens));",
     "      table.push_back(from[full_blocks]);\n      hold(table.back());", BOTH),
    ("a fork does not hold what it shares", "kv_cache_admission.cc", "if (block != kNoBlock) hold(block);", "",
     HISTORIES),

    # ---- Finding and sharing
    ("tokens are not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal(this->tokens(block), tokens)",
     "entries_[block].parent == parent", BOTH),
    ("the parent is not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal", "std::ranges::equal", BOTH),
    ("the salt is no part of the root", "prefix_index.cc",
     "const auto place = root_ids_.emplace(Scope(salt, adapter_id), root).first;",
     'const auto place = root_ids_.emplace(Scope("", adapter_id), root).first;', BOTH),
    ("adapters share a root", "prefix_index.cc",
     "root_ids_.find(ScopeView(salt, adapter_id))", "root_ids_.lower_bound(ScopeView(salt, 0))", HISTORIES),
    ("a root is forgotten while held", "prefix_index.cc",
     "if (gone.holders > 0 || gone.first_child", "if (gone.first_child", HISTORIES),
    ("a copy takes one token too few", "kv_cache_admission.cc",
     "memory_->copy_leading_tokens(layout_, from, to, tokens)",
     "memory_->copy_leading_tokens(layout_, from, to, tokens - 1)", BOTH),
    ("codes are copied without their scales", "block_arena.cc",
     "    if (used_scales > 0) std::memcpy(target + scales, source + scales, used_scales);\n", "", BOTH),
    ("parts of blocks that are not copyable are copied", "prefix_index.cc",
     "  copyable_[block] = copyable;\n", "  copyable_[block] = true;\n", BOTH),
    ("what a lease began before invalidate_all() is shared", "kv_cache_lease.cc",
     "lease.epoch != index_.epoch(lease.root) || ", "", BOTH),
    ("children of a forgotten block are shared", "kv_cache_lease.cc",
     " || (position > 0 && !index_.contains(parent))", "", BOTH),

    # ---- Eviction
    ("a block that is held counts as evictable", "kv_cache_eviction.cc",
     "index_.contains(block) && pool_.references(block) == 0 &&", "index_.contains(block) &&", BOTH),
    ("a parent may go before its child", "kv_cache_eviction.cc",
     "(index_.is_companion(block) || index_.is_leaf(block))", "true", BOTH),
    ("a parent whose last child went is not evictable", "kv_cache_eviction.cc",
     "  if (!PrefixIndex::is_root(parent) && is_evictable(parent)) make_evictable(parent);\n", "", HISTORIES),
    ("an expected block goes like any other", "eviction_order.cc",
     "const bool expected = known && expectations_[named] > 0;", "const bool expected = false;", BOTH),
    ("High goes like Normal", "eviction_order.cc",
     "standings_[named].priority == RetentionPriority::High", "false", BOTH),
    ("Low goes like Normal", "eviction_order.cc",
     "if (standings_[block].priority == RetentionPriority::Low) {", "if (false) {", HISTORIES),
    ("a later, weaker wish replaces a stronger one", "eviction_order.cc",
     "const bool raised = priority > standing.priority;", "const bool raised = priority != standing.priority;",
     HISTORIES),

    # ---- Pins
    ("a pinned block can be evicted", "kv_cache_retention.cc",
     "    hold(block);\n    if (pin_counts_[block]++ == 0) ++pinned_blocks_;",
     "    if (pin_counts_[block]++ == 0) ++pinned_blocks_;", BOTH),
    ("a pin never ends by itself", "kv_cache_retention.cc",
     "expires != 0 && expires <= now", "expires != 0 && expires < 1", BOTH),
    ("a pin that ends keeps its deepest block", "kv_cache_retention.cc",
     "for (std::size_t i = ended.blocks.size(); i-- > 0;) {",
     "for (std::size_t i = ended.blocks.size() - 1; i-- > 0;) {", HISTORIES),
    ("a pin for ages ends at once", "kv_cache_retention.cc", "end_of_life(now, ttl_ms)", "now + ttl_ms", HISTORIES),
    ("unpin() ends one pin at most", "kv_cache_retention.cc",
     "      end_pin(pin);\n      ++ended;\n", "      end_pin(pin);\n      return 1;\n", HISTORIES),
    ("invalidation leaves pins", "kv_cache_eviction.cc",
     "  if (const auto pin = pins_.find(leaf); pin != pins_.end()) end_pin(pin);\n", "", HISTORIES),
    ("pins may hold all of the cache", "kv_cache_retention.cc",
     "> pool_.capacity_blocks() / 2", "> pool_.capacity_blocks()", HISTORIES),
    ("a fork counts overdue pins", "kv_cache_admission.cc",
     "    expire_pins(seams_.now_ms());\n    const std::size_t full_blocks", "    const std::size_t full_blocks",
     HISTORIES),

    # ---- Times to live
    ("a time to live is ignored by lookups", "kv_cache_admission.cc",
     "if (is_expired(child, now)) return false;", "", BOTH),
    ("a time to live is ignored by copies", "kv_cache_admission.cc",
     "return !is_expired(child, now);", "return child != kNoBlock;", HISTORIES),
    ("a time to live is ignored in windows", "kv_cache_admission.cc", " && !is_expired(block, now)) continue;",
     ") continue;", HISTORIES),
    ("a use does not begin a time to live anew", "kv_cache_eviction.cc",
     "std::max(expires_ms_[block], end_of_life(now, retention.ttl_ms))",
     "expires_ms_[block] > kUnused ? expires_ms_[block] : now + retention.ttl_ms", HISTORIES),
    ("what is held is over when its time is", "kv_cache_eviction.cc",
     "expires_ms_[block] <= now &&\n         pool_.references(block) == 0;", "expires_ms_[block] <= now;", HISTORIES),
    ("an unused window block of before the first time to live stays for ever", "kv_cache_state.cc",
     "  if (groups_.size() > 1) expires_ms_.resize(capacity_blocks);\n", "", CASES),

    # ---- Waiting prompts
    ("a waiting prompt is not told of what arrives", "kv_cache_lease.cc",
     "  arrive(key, parent, lease.open_tokens, own);\n", "", BOTH),
    ("a waiting prompt is not told of what returns behind a gap", "kv_cache_lease.cc",
     "  if (groups_.size() > 1) notice_return(lease, position);\n", "", CASES),
    ("a waiting prompt counts on what was evicted", "kv_cache_retention.cc",
     "    expected->blocks.pop_back();\n", "    break;\n", BOTH),
    ("a lease does not announce what it computes", "kv_cache_admission.cc",
     "    announce_next_block(*lease);\n", "", BOTH),
    ("only the first block is announced", "kv_cache_lease.cc",
     "  if (was_announced) {\n    announce_next_block(lease);\n  } else {", "  if (!was_announced) {", BOTH),
    ("what is in flight outlives its lease", "kv_cache_lease.cc",
     "  std::unique_lock lock(mutex_);\n  computing_.remove(lease.frontier);\n", "  std::unique_lock lock(mutex_);\n",
     HISTORIES),

    # ---- Quotas
    ("a tenant at its quota takes others' room", "kv_cache_eviction.cc",
     "if (tenants_ && tenants_->is_at_quota(tenant)) {", "if (false) {", BOTH),
    ("admission ignores the quota", "tenant_ledger.cc",
     "return tenants_[tenant].claimed <= quota && blocks <= quota - tenants_[tenant].claimed;",
     "return quota > 0 || blocks > 0;", BOTH),
    ("what is held is not counted against the quota", "kv_cache_eviction.cc",
     "if (pool_.references(block) == 0 && tenants_) tenants_->on_held(block);", "", HISTORIES),

    # ---- Windows
    ("a window's block is given up too early", "kv_cache_admission.cc",
     "(tokens - (window - 1)) / layout_.block_tokens;", "(tokens - 1) / layout_.block_tokens;", BOTH),
    ("a window's block is kept too long", "kv_cache_lease.cc",
     "drop(std::exchange(window[i], kNoBlock));", "window[i] = kNoBlock;", HISTORIES),
    ("a hit needs no window blocks", "kv_cache_admission.cc", "    path.resize(valid_blocks(path, now));\n", "", BOTH),
    ("a window's block is found for another group", "prefix_index.cc",
     "if (of_group[owner] == block) of_group[owner] = kNoBlock;", "of_group[owner] = kNoBlock;", HISTORIES),

    # ---- Prompts that are loaded from their end while they are computed
    ("a block that joins is not held", "kv_cache_lease.cc", "    hold(loaded.block);\n", "", CASES),
    ("a block that joins returns no promise", "kv_cache_lease.cc", "      pool_.return_promises(1);\n", "", CASES),
    ("what was forgotten joins", "kv_cache_lease.cc", "lease.shares && lease.forgotten == forgotten_ && ", "", CASES),
    ("blocks join before computing has come to them", "kv_cache_lease.cc", "if (begun < tail.first || ",
     "if (tail.first == tail.end || ", CASES),
    ("blocks that join are not counted as from a tier", "kv_cache_lease.cc",
     "share_full_block(lease, i, load.tail.tier);", "share_full_block(lease, i, kNoTier);", CASES),

    # ---- No memory
    ("commit() needs memory", "kv_cache_admission.cc",
     "    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n", "", FAULTS),
    ("grow() needs memory", "kv_cache_admission.cc",
     "    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);\n"
     "    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n",
     "    lease->blocks = {};\n    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n", FAULTS),
    ("a refusal needs memory", "kv_cache_lease.cc", "    return refusal(StatusCode::ResourceExhausted, ",
     "    const std::string sentence(100, ' ');\n    return refusal(StatusCode::ResourceExhausted, ", FAULTS),
    ("to find a root needs memory", "prefix_index.cc",
     "root_ids_.find(ScopeView(salt, adapter_id))", "root_ids_.find(Scope(salt, adapter_id))", FAULTS),
    ("a pin without memory holds blocks", "kv_cache_retention.cc",
     "  const auto placed = pins_.emplace(found.node, std::move(pin)).first;\n",
     "  for (const BlockId block : pin.blocks) hold(block);\n"
     "  const auto placed = pins_.emplace(found.node, std::move(pin)).first;\n"
     "  for (const BlockId block : placed->second.blocks) drop(block);\n", FAULTS),
    ("an admission without memory keeps its root", "kv_cache_admission.cc",
     "    // From here on nothing fails, but the copying of a block on a GPU.\n    lease->cache = shared_from_this();\n    lease->shares = prefix_reuse_;\n",
     "    const std::vector<TokenId> again(prompt.begin(), prompt.end());\n"
     "    lease->cache = shared_from_this();\n    lease->shares = prefix_reuse_;\n", FAULTS),
    ("an admission without memory keeps its tenant", "kv_cache_admission.cc",
     "        if (tenants_) tenants_->leave(lease->tenant);\n        throw;\n", "        throw;\n", FAULTS),

    # ---- Tiers
    ("a tier does not compare tokens", "tier/disk_store.cc",
     "  if (!std::ranges::equal(tokens, std::as_bytes(read.tokens))) return not_found();\n", "", TIERS),
    ("a memory tier does not compare tokens", "tier/memory_store.cc",
     " && std::ranges::equal(block.tokens, asked.tokens);", ";", TIERS),
    ("a payload is not checked", "tier/disk_store.cc",
     "  if (disk::hash_of(payload) != header.payload_hash) return corrupt();\n", "", TIERS),
    ("another model's blocks are found", "tier/disk_index.cc",
     "  if (entry.fingerprint != fingerprint_) return;\n", "", TIERS),
    ("an erasure is not written", "tier/disk_store_writing.cc",
     "  TIERCEL_RETURN_IF_ERROR(append_erasure(RecordKind::ErasedKeys, 0, keys));\n", "", TIERS),
    ("a flush syncs nothing", "tier/disk_store_writing.cc", "return log_ ? sync() : Status();", "return Status();", TIERS),
    ("what a sync lost counts as there", "tier/disk_store_writing.cc",
     "  for (const auto& part : lost) index_->lose_from(*part.segment, part.from);\n", "", DISK),
    ("a footer vouches for records that may be lost", "tier/segment_log.cc",
     "const Status synced = writing.file->sync();", "const Status synced;", DISK),
    ("a later process trusts what a sync lost", "tier/segment_log.cc", "if (writing.is_ours)", "if (false)", DISK),
    ("what is moved is not safe before its old place goes", "tier/disk_store_writing.cc",
     "  if (!moved.empty()) {", "  if (false) {", DISK),
    ("a file that stays is left out of the index", "tier/disk_store_writing.cc", "  if (dropped.ok()) {", "  if (true) {",
     DISK),
    ("what is written again is newer than what follows it", "tier/disk_store_writing.cc",
     "header.sequence = index_->sequence_of_lost(record.key, record.parent).value_or(0);", "header.sequence = 0;", DISK),
    ("what is written after a failed erasure is as old as before", "tier/disk_index.cc",
     "place.lost && !place.may_be_erased &&", "place.lost &&", DISK),
    ("records end at one that is damaged", "tier/disk_segment.cc",
     "      offset += kPage;\n      continue;", "      break;", DISK),
    ("an erasure is forgotten at a restart", "tier/disk_index.cc",
     "nodes_[slot].place.entry.sequence < sequence) remove(slot);", "sequence == 0) remove(slot);", DISK),
    ("a parent is not compared", "tier/disk_index.cc", "place->entry.parent != asked.parent ||", "", DISK),
    ("a tenant is not compared", "tier/disk_index.cc", "place->entry.tenant != asked.tenant ||", "", DISK),
    ("an adapter is not compared", "tier/disk_index.cc", "place->entry.adapter_id != asked.adapter_id ||", "", (DISK, TIERS)),
    ("an adapter is not written to the disk", "tier/disk_store_writing.cc", "  header.adapter_id = record.adapter_id;\n", "", DISK),
    ("a memory tier does not compare tenants", "tier/memory_store.cc", "block.tenant == asked.tenant &&", "", TIERS),
    ("a memory tier does not compare adapters", "tier/memory_store.cc", "block.adapter_id == asked.adapter_id &&", "", TIERS),
    ("a memory tier does not compare parents", "tier/memory_store.cc", "block.parent == asked.parent &&", "", TIERS),
    ("a write does not say of which adapter it is", "tier_manager.cc", "  write->adapter_id = index.adapter_of(root);\n", "", CASES),
    ("a block counts though what is before it is newer", "tier/disk_index.cc",
     " &&\n         block.entry.sequence > before.entry.sequence;", ";", DISK),
    ("bytes in memory are not checked", "tier/memory_store.cc",
     "if (copy.checksum() != found.checksum) {", "if (false) {", CASES),
    ("a breaker never closes", "circuit_breaker.cc", "  open_until_s_ = 0;\n", "", CASES),
    ("the deadline is ignored", "tier_monitor.cc", "now_s - began_s_ <= deadline_s_) return;", "true) return;", CASES),
    ("a tier that hangs is asked", "tier_monitor.cc", "return !hangs() && reads_well_", "return reads_well_", CASES),
    ("a tier is read before it has forgotten", "tier_worker.cc", "!stopping_ && !erasures_.is_pending() && ", "!stopping_ && ", CASES),
    ("a tier is read while it forgets", "erasure_queue.cc", "is_first_try_ = !erasure.failed;", "", CASES),
    ("too many erasures forget less", "erasure_queue.cc", "    erasure = {.kind = TierErasure::Kind::All};\n", "", CASES),
    ("what failed to be forgotten is not tried again", "erasure_queue.cc", "  waiting_.push_back(std::move(erasure));  // has room\n", "", CASES),
    ("a prompt is split whose beginning was evicted", "tier_manager.cc", " || computed_blocks < load->first_block", "", CASES),
    ("a block that is not in host memory is read into directly", "block_reader.cc",
     "read.bytes = {staging.bytes.get()", "read.bytes = {blocks.empty() ? memory_->block(read.block) : staging.bytes.get()", CASES),
    ("a block that does not come to its memory counts as loaded", "block_reader.cc",
     "if (!copied.ok() && read.status.ok()) read.status = copied;", "", CASES),
    ("host memory is read into while it is copied from", "block_reader.cc",
     "Status copied = memory_->finish_load(staging.load);", "Status copied;", CASES),
    ("host memory is given back while it is copied from", "block_reader.cc",
     "static_cast<void>(memory_->finish_load(staging.load));", "{}", CASES),
    ("a block that cannot be copied is written", "tier_write_batch.cc", "if (!copied.ok()) records_.clear();", "", CASES),
    ("a block that is copied to be written is not dropped", "tier_write_batch.cc", "cache_.drop(path.blocks[i]);", "", CASES),
    ("what took the place of an evicted block is written under its key", "tier_write_batch.cc",
     " || block_key(index.key_of(block)) != path.keys[held + 1]", "", CASES),
    ("another tenant's block in the place of an evicted one is written as its own", "tier_write_batch.cc",
     " &&\n         cache_.tenant_name(index.salt_of(node)) == path.tenant", "", CASES),
    ("another adapter's block in the place of an evicted one is written as its own", "tier_write_batch.cc",
     " && index.adapter_of(node) == path.adapter_id", "", CASES),
    ("what goes is written whatever its value", "kv_cache_eviction.cc",
     "while (!path.empty() && !writes_->is_valued(path.back())) path.pop_back();", "", CASES),
    ("what is of value is not written where what follows it is not", "kv_cache_eviction.cc",
     "while (!path.empty() && !writes_->is_valued(path.back())) path.pop_back();",
     "if (!writes_->is_valued(path.back())) continue;", CASES),
    ("what is computed again when it was evicted is of no value", "write_choice.cc",
     "policy_ != WritePolicy::EveryBlock && note(key)", "policy_ == WritePolicy::SeenTwice && note(key)", CASES),
    ("what is found is of no value", "write_choice.cc", "marks_[block] |= kSeenTwice;", "", CASES),
    ("nobody is told that a load is done", "tier_worker.cc",
     "    load->ended = true;\n    cache_.on_transferred();\n", "    load->ended = true;\n", CASES),
    ("nobody is told that a demotion is done", "tier_worker.cc",
     "  if (run_write(demotions_)) {\n    cache_.on_transferred();\n", "  if (run_write(demotions_)) {\n", CASES),
    ("who went is told", "kv_cache_state.cc", "  notify_.swap(notify);\n", "  if (notify) notify_.swap(notify);\n", CASES),
    ("a deep token costs as much as the deepest that was measured", "transfer_cost.cc",
     "std::clamp(slope, 0., to.seconds_per_token / to.position)", "0 * slope", CASES),
    ("a guess beyond what was measured has no bound", "transfer_cost.cc",
     "std::clamp(slope, 0., to.seconds_per_token / to.position)", "slope", CASES),
    ("flush() leaves out what is running", "kv_cache_eviction.cc", " && !writes_->is_lasting(block)", "", CASES),
    ("blocks are given back before they are staged", "tier_write_batch.cc",
     "  if (copied.ok()) copied = store_.stage(blocks);\n  const std::lock_guard cache_lock(cache_.mutex_);\n"
     "  for (std::size_t i = held; i-- > 0;) cache_.drop(path.blocks[i]);\n",
     "  {\n    const std::lock_guard cache_lock(cache_.mutex_);\n"
     "    for (std::size_t i = held; i-- > 0;) cache_.drop(path.blocks[i]);\n  }\n"
     "  if (copied.ok()) copied = store_.stage(blocks);\n", CASES),
    ("what could not be staged is written", "tier_write_batch.cc", "copied = store_.stage(blocks);", "static_cast<void>(store_.stage(blocks));", CASES),
    ("a flush says nothing of what it gave up", "tier_manager.cc", "if (given_up > 0) {", "if (false) {", CASES),
    ("looking ahead changes the order", "eviction_order.cc",
     "  for (std::size_t i = found; i-- > 0;) policy_->on_evictable(next[i]);\n",
     "  for (std::size_t i = found; i-- > 0;) policy_->on_use(next[i]), policy_->on_evictable(next[i]);\n", CASES),
    ("what is next to go is not written", "kv_cache_lease.cc", "  offer_what_leaves();\n", "", CASES),

    # ---- Tiers of several caches
    ("shared tiers: what another cache has to erase is found", "shared_tiers.cc",
     "return shared_->is_readable() ? store().leading(keys) : 0;", "return store().leading(keys);", CASES),
    ("shared tiers: a load that began earlier reads on", "shared_tiers.cc",
     "if (shared_->is_readable()) return store().read(reads);", "return store().read(reads);", CASES),
    ("shared tiers: a cache that has erased lets all read", "shared_tiers.cc",
     "shared_->holders.fetch_sub(1, std::memory_order_acq_rel);", "shared_->holders.store(0);", CASES),
    ("shared tiers: the others are not told of erasures", "tier_worker.cc", "    store_->on_erasures_pending(true);\n",
     "", CASES),
    ("shared tiers: the others are not told that all is erased", "tier_worker.cc",
     "if (!erasures_.is_pending()) store_->on_erasures_pending(false);", "", CASES),
    ("shared tiers: nothing is held while caches forget", "shared_tiers.cc",
     "for (const auto& shared : tiers_.shared_) shared->holders.fetch_add(1, std::memory_order_acq_rel);",
     "for (const auto& shared : tiers_.shared_) shared->holders.fetch_add(0);", CASES),
    ("shared tiers: a cache that ends holds the others", "shared_tiers.cc",
     "~Handle() override { Handle::on_erasures_pending(false); }", "~Handle() override = default;", CASES),
    ("shared tiers: each cache opens the store", "shared_tiers.cc", "if (!opened_) opened_ =", "opened_ =", CASES),
]

HISTORIES_EACH = {TIERS: "2000"}  # of each configuration of the simulator; otherwise 400
LIMIT_S = {CASES: 60, HISTORIES: 10, FAULTS: 10, TIERS: 60, DISK: 60, "ranked_model_test": 20,
           "replica_test": 20}  # some mutants never end
FILTER = {DISK: "DiskFault.*:DiskStoreTest.*-*.Every*",  # without what takes long
          "ranked_model_test": "RankedModel.AFailedStep*:RankedModel.BlocksAre*:RankedStore.*-*Hangs*:*AfterAKill*"}


def folder_of(file):
    return "src" if "/" in file else "src/kv"


def is_of_tiers(mutant):
    _, file, _, _, programs = mutant
    return "/" in file or file.startswith(("tier", "erasure", "shared_tiers")) or programs in (TIERS, DISK)


def run(program, executable):
    """Whether the mutant was seen, and how."""
    try:
        done = subprocess.run(
            [str(executable), "--gtest_fail_fast", "--gtest_brief=1", f"--gtest_filter={FILTER.get(program, '-SimulationOfThreads.*')}"],
            capture_output=True, text=True, timeout=LIMIT_S.get(program, 60),
            env={**os.environ, "TIERCEL_SIM_HISTORIES": HISTORIES_EACH.get(program, "400")})
    except subprocess.TimeoutExpired:
        return True, "hangs"
    if done.returncode == 0:
        return False, "SURVIVED"
    if done.returncode < 0:
        return True, f"signal {-done.returncode}"
    lines = done.stdout.splitlines()
    said = [line for line in lines if line.startswith(("step ", "keys changed"))]
    failed = [line.split("]")[1].strip() for line in lines if line.startswith("[  FAILED  ]")]
    return True, (said + failed + [f"exit status {done.returncode}"])[0]


def outcome_of(number, mutant, arguments):
    """Whether every program saw the mutant, how, and the seconds that took."""
    _, file, text, replacement, programs = mutant
    began = time.monotonic()
    source = pathlib.Path(arguments.source, folder_of(file), file).read_text()
    work = pathlib.Path(arguments.work, f"mutant{number}")
    work.mkdir(parents=True, exist_ok=True)
    mutated = work / pathlib.Path(file).name
    mutated.write_text(source.replace(text, replacement))
    command = shlex.split(arguments.compile) + ["-c", str(mutated), "-o", str(work / "mutant.o")]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode != 0:
        return False, f"it does not compile: mend {__file__}\n{compiled.stderr[:1000]}", 0
    objects = dict(given.split("=", 1) for given in arguments.objects)
    seen, how = True, []
    for program in (programs,) if isinstance(programs, str) else programs:
        executable = work / program
        subprocess.run(shlex.split(arguments.link) + [str(work / "mutant.o")] + shlex.split(objects[program]) +
                       [library for library in shlex.split(arguments.libraries)
                        if pathlib.Path(library).name != pathlib.Path(file).name + ".o"] +
                       ["-o", str(executable)], check=True)
        seen_here, how_here = run(program, executable)
        executable.unlink()
        seen = seen and seen_here
        how.append(f"{program}: {how_here}")
    return seen, "; ".join(how), time.monotonic() - began


def main(all_mutants):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("source", "work", "compile", "link", "libraries"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--part", default="all", choices=("all", "core", "tiers"))
    parser.add_argument("--objects", required=True, action="append", help="PROGRAM=FILES")
    parser.add_argument("--again", required=True, help="the command that runs this test")
    arguments = parser.parse_args()
    of_part = [mutant for mutant in all_mutants if arguments.part in ("all", "tiers" if is_of_tiers(mutant) else "core")]
    mutants = chosen(of_part, arguments.source)
    for what, file, text, *_ in of_part:
        count = pathlib.Path(arguments.source, folder_of(file), file).read_text().count(text)
        if count != 1:
            sys.exit(f"{what}: its text is in {file} {count} times, not once")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda item: outcome_of(*item, arguments), enumerate(mutants)))
    survivors = [what for (what, *_), (seen, *_) in zip(mutants, outcomes) if not seen]
    for (what, file, *_), (seen, how, seconds) in zip(mutants, outcomes):
        print(f"{'caught' if seen else 'NOT   '} {seconds:5.1f} s  {what} ({file}): {how}")
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} planted bugs were caught")
    for what in survivors:
        print(f"To see it again:\n  TIERCEL_MUTANTS={shlex.quote(what)} {arguments.again}")
    return 1 if survivors or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(MUTANTS))
