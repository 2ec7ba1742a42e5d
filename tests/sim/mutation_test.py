"""Plants bugs in the KV core and demands that the simulator sees every one, by itself: assertions are off.

    mutation_test.py --source DIR --work DIR --compile "COMPILER FLAGS" --link "COMPILER OBJECTS LIBRARIES" \\
                     --link-with-faults "COMPILER OBJECTS LIBRARIES" [--only WORDS]

Each mutant replaces one piece of one file of src/kv. The mutated file alone is compiled and linked before the library, whose own
version of it is then not taken. A mutant that compiles and passes has survived, and fails this test; so does one whose text is not
found exactly once, which means that the code went on without it. tests/kv/mutation_test.py does the same with the tests there.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys
import time

# Kinds of programs that look for a mutant.
PLAIN, FAULTS = "sim_test", "sim_fault_test"

# (what it is, file, text, replacement[, program])
MUTANTS = [
    ("a lease that ends keeps a reference", "kv_cache_lease.cc",
     "use(block, lease.retention, now);\n      drop(block);", "use(block, lease.retention, now);\n      if (table.size() != 2) drop(block);"),
    ("a matched block is not held", "kv_cache_admission.cc",
     "for (const BlockId block : lease->blocks) hold(block);", "for (const BlockId block : lease->blocks) static_cast<void>(block);"),
    ("a duplicate that is given up is not dropped", "kv_cache_lease.cc",
     "    hold(equal);\n    drop(std::exchange(own, equal));\n  }\n  if (groups_",
     "    hold(equal);\n    own = equal;\n  }\n  if (groups_"),
    ("a pinned block can be evicted", "kv_cache_retention.cc",
     "    hold(block);\n    if (pin_counts_[block]++ == 0) ++pinned_blocks_;", "    if (pin_counts_[block]++ == 0) ++pinned_blocks_;"),
    ("a pin never ends by itself", "kv_cache_retention.cc", "expires != 0 && expires <= now", "expires != 0 && expires < 1"),
    ("a pin that ends keeps its deepest block", "kv_cache_retention.cc",
     "for (std::size_t i = ended.blocks.size(); i-- > 0;) {", "for (std::size_t i = ended.blocks.size() - 1; i-- > 0;) {"),
    ("unpin() ends one pin at most", "kv_cache_retention.cc",
     "      end_pin(pin);\n      ++ended;\n", "      end_pin(pin);\n      return 1;\n"),
    ("invalidation leaves pins", "kv_cache_eviction.cc",
     "  if (const auto pin = pins_.find(leaf); pin != pins_.end()) end_pin(pin);\n", ""),
    ("pins may hold all of the cache", "kv_cache_retention.cc", "> pool_.capacity_blocks() / 2", "> pool_.capacity_blocks()"),
    ("tokens are not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal(this->tokens(block), tokens)", "entries_[block].parent == parent"),
    ("the parent is not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal", "std::ranges::equal"),
    ("keys of adapters are one root", "prefix_index.cc",
     "const auto found = root_ids_.find(Scope(salt, adapter_id));", "const auto found = root_ids_.lower_bound(Scope(salt, 0));"),
    ("a root is forgotten while held", "prefix_index.cc", "if (gone.holders > 0 || gone.first_child", "if (gone.first_child"),
    ("a block is given back twice", "kv_cache_eviction.cc",
     "  if (!index_.contains(block)) {\n    give_back(block);", "  if (!index_.contains(block)) {\n    give_back(block);\n    give_back(block);"),
    ("promises are not returned", "kv_cache_lease.cc", "  pool_.return_promises(lease.promised_blocks);\n", ""),
    ("an admission forgets what it will newly hold", "kv_cache_admission.cc",
     "const std::size_t wanted = new_blocks + newly_held;", "const std::size_t wanted = new_blocks + 0 * newly_held;"),
    ("a parent may go before its child", "kv_cache_eviction.cc", "(index_.is_companion(block) || index_.is_leaf(block))", "true"),
    ("a parent whose last child went is not evictable", "kv_cache_eviction.cc",
     "  if (!PrefixIndex::is_root(parent) && is_evictable(parent)) make_evictable(parent);\n", ""),
    ("what a lease began before invalidate_all() is shared", "kv_cache_lease.cc", "lease.epoch != index_.epoch(lease.root) || ", ""),
    ("children of a forgotten block are shared", "kv_cache_lease.cc", " || (position > 0 && !index_.contains(parent))", ""),
    ("a time to live is ignored by lookups", "kv_cache_admission.cc", "if (is_expired(child, now)) return false;", ""),
    ("a time to live is ignored by copies", "kv_cache_admission.cc",
     " && is_expired(found.partial.block, now)) found.partial = {};", ") static_cast<void>(now);"),
    ("a use does not begin a time to live anew", "kv_cache_eviction.cc",
     "std::max(expires_ms_[block], now + retention.ttl_ms)",
     "expires_ms_[block] > kUnused ? expires_ms_[block] : now + retention.ttl_ms"),
    ("what is held is over when its time is", "kv_cache_eviction.cc",
     "expires_ms_[block] <= now &&\n         pool_.references(block) == 0;", "expires_ms_[block] <= now;"),
    ("an expected block goes like any other", "eviction_order.cc",
     "const bool expected = known && expectations_[named] > 0;", "const bool expected = false;"),
    ("High goes like Normal", "eviction_order.cc", "standings_[named].priority == RetentionPriority::High", "false"),
    ("Low goes like Normal", "eviction_order.cc",
     "if (standings_[block].priority == RetentionPriority::Low) {", "if (false) {"),
    ("a later, weaker wish replaces a stronger one", "eviction_order.cc",
     "const bool raised = priority > standing.priority;", "const bool raised = priority != standing.priority;"),
    ("a waiting prompt is not told of what arrives", "kv_cache_lease.cc", "  arrive(key, parent, lease.open_tokens, own);\n", ""),
    ("a waiting prompt counts on what was evicted", "kv_cache_retention.cc", "    expected->blocks.pop_back();\n", "    break;\n"),
    ("a lease does not announce what it computes", "kv_cache_admission.cc", "    announce_next_block(*lease);\n", ""),
    ("only the first block is announced", "kv_cache_lease.cc",
     "  if (was_announced) {\n    announce_next_block(lease);\n  } else {", "  if (!was_announced) {"),
    ("what is in flight outlives its lease", "kv_cache_lease.cc",
     "  std::unique_lock lock(mutex_);\n  computing_.remove(lease.frontier);\n", "  std::unique_lock lock(mutex_);\n"),
    ("a fork shares the block begun", "kv_cache_admission.cc",
     "      table.push_back(take_promised_block(lease->tenant));\n      --lease->promised_blocks;\n      "
     "copy_leading_tokens(from[full_blocks], table.back(), begun_tokens);",
     "      table.push_back(from[full_blocks]);\n      hold(table.back());"),
    ("a fork does not hold what it shares", "kv_cache_admission.cc", "if (block != kNoBlock) hold(block);", ""),
    ("a copy takes one token too few", "kv_cache_admission.cc",
     "const std::size_t used_bytes = tokens * layout_.head_dim", "const std::size_t used_bytes = (tokens - 1) * layout_.head_dim"),
    ("parts of blocks that are not copyable are copied", "prefix_index.cc", "    if (!copyable_[block]) continue;\n", ""),
    ("a tenant at its quota takes others' room", "kv_cache_eviction.cc",
     "if (tenants_ && tenants_->is_at_quota(tenant)) {", "if (false) {"),
    ("admission ignores the quota", "tenant_ledger.cc",
     "return tenants_[tenant].claimed <= quota && blocks <= quota - tenants_[tenant].claimed;", "return quota > 0 || blocks > 0;"),
    ("what is held is not counted against the quota", "kv_cache_eviction.cc",
     "if (pool_.references(block) == 0 && tenants_) tenants_->on_held(block);", ""),
    ("a window's block is given up too early", "kv_cache_admission.cc",
     "(tokens - (window - 1)) / layout_.block_tokens;", "(tokens - 1) / layout_.block_tokens;"),
    ("a window's block is kept too long", "kv_cache_lease.cc",
     "drop(std::exchange(window[i], kNoBlock));", "window[i] = kNoBlock;"),
    ("a hit needs no window blocks", "kv_cache_admission.cc", "    path.resize(valid_blocks(path));\n", ""),
    ("a window's block is found for another group", "prefix_index.cc",
     "if (of_group[owner] == block) of_group[owner] = kNoBlock;", "of_group[owner] = kNoBlock;"),
    ("commit() needs memory", "kv_cache_admission.cc",
     "    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n", "", FAULTS),
    ("grow() needs memory", "kv_cache_admission.cc", "    lease->blocks.reserve(total_blocks);\n    lease->windows.resize(groups - 1);\n"
     "    for (std::vector<BlockId>& window : lease->windows) window.reserve(total_blocks);\n"
     "    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n    lease->is_load",
     "    lease->windows.resize(groups - 1);\n    lease->open_tokens.reserve(prefix_reuse_ ? layout_.block_tokens : 0);\n"
     "    lease->is_load", FAULTS),
    ("a pin without memory holds blocks", "kv_cache_retention.cc",
     "  const auto placed = pins_.emplace(found.node, std::move(pin)).first;\n",
     "  for (const BlockId block : pin.blocks) hold(block);\n  const auto placed = pins_.emplace(found.node, std::move(pin)).first;\n"
     "  for (const BlockId block : placed->second.blocks) drop(block);\n", FAULTS),
    ("an admission without memory keeps its root", "kv_cache_admission.cc",
     "    // From here on nothing fails.\n    lease->cache = shared_from_this();\n    lease->shares = prefix_reuse_;\n",
     "    const std::vector<TokenId> again(prompt.begin(), prompt.end());\n"
     "    lease->cache = shared_from_this();\n    lease->shares = prefix_reuse_;\n", FAULTS),
]

HISTORIES = "400"  # of each configuration
LIMIT_S = 10  # some mutants never end


def outcome_of(number, mutant, arguments):
    """Whether it was caught, how, and the seconds that took."""
    what, file, text, replacement, program = (*mutant, PLAIN)[:5]
    began = time.monotonic()
    source = pathlib.Path(arguments.source, "src/kv", file).read_text()
    if source.count(text) != 1:
        return False, f"its text is there {source.count(text)} times, not once: mend tests/sim/mutation_test.py", 0
    work = pathlib.Path(arguments.work, f"mutant{number}")
    work.mkdir(parents=True, exist_ok=True)
    mutated, executable = work / file, work / program
    mutated.write_text(source.replace(text, replacement))
    compiled = subprocess.run(shlex.split(arguments.compile) + ["-c", str(mutated), "-o", str(work / "mutant.o")], capture_output=True, text=True)
    if compiled.returncode != 0:
        return False, f"it does not compile: mend tests/sim/mutation_test.py\n{compiled.stderr[:500]}", 0
    compiler, *objects = shlex.split(arguments.link if program == PLAIN else arguments.link_with_faults)
    subprocess.run([compiler, str(work / "mutant.o"), *objects, "-o", str(executable)], check=True)
    try:
        run = subprocess.run([str(executable), "--gtest_fail_fast", "--gtest_brief=1", "--gtest_filter=-*Threads*"], capture_output=True, text=True, timeout=LIMIT_S,
                             env={**os.environ, "TIERCEL_SIM_HISTORIES": HISTORIES})
        caught = run.returncode != 0
        said = [line for line in run.stdout.splitlines() if line.startswith(("step ", "keys changed"))]
        how = f"signal {-run.returncode}" if run.returncode < 0 else said[0] if said else f"exit status {run.returncode}"
    except subprocess.TimeoutExpired:
        caught, how = True, "hangs"
    executable.unlink()
    return caught, how if caught else "SURVIVED", time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("source", "work", "compile", "link", "link-with-faults"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", default="", help="mutants whose description has these words")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant[0]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda item: outcome_of(*item, arguments), enumerate(mutants)))
    for (what, file, *_), (caught, how, seconds) in zip(mutants, outcomes):
        print(f"{'caught' if caught else 'NOT   '} {seconds:5.1f} s  {what} ({file}): {how}")
    survivors = sum(not caught for caught, *_ in outcomes)
    print(f"{len(mutants) - survivors} of {len(mutants)} planted bugs were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
