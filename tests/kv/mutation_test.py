"""Plants bugs in the KV core and demands that its tests see every one.

    mutation_test.py --source DIR --work DIR --compile "COMPILER FLAGS" --link "COMPILER OBJECTS LIBRARIES"

Each mutant replaces one piece of one file of src/kv. The mutated file alone is compiled and linked before the library, whose own
version of it is then not taken. A mutant that compiles and passes all tests has survived, and fails this test; so does one whose
text is not found exactly once, which means that the code went on without it.
"""

import argparse
import concurrent.futures
import pathlib
import shlex
import subprocess
import sys

# (what it is, file, text, replacement)
MUTANTS = [
    ("a lease drops a reference too few", "kv_cache_lease.cc",
     "      if (used && index_.contains(block)) use(block, lease.retention, now);\n      drop(block);",
     "      if (used && index_.contains(block)) use(block, lease.retention, now);\n      if (table.size() != 1) drop(block);"),
    ("a matched block is not held", "kv_cache_admission.cc",
     "for (const BlockId block : lease->blocks) hold(block);", "for (const BlockId block : lease->blocks) static_cast<void>(block);"),
    ("a pinned block can be evicted", "kv_cache_retention.cc",
     "    hold(block);\n    if (pin_counts_[block]++ == 0) ++pinned_blocks_;", "    if (pin_counts_[block]++ == 0) ++pinned_blocks_;"),
    ("a pin never expires", "kv_cache_retention.cc", "expires != 0 && expires <= now", "expires != 0 && expires < 1"),
    ("tokens are not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal(this->tokens(block), tokens)", "entries_[block].parent == parent"),
    ("the parent is not compared on a hit", "prefix_index.cc",
     "entries_[block].parent == parent && std::ranges::equal", "std::ranges::equal"),
    ("the salt is no part of the root", "prefix_index.cc",
     "const auto place = root_ids_.emplace(Scope(salt, adapter_id), root).first;",
     'const auto place = root_ids_.emplace(Scope("", adapter_id), root).first;'),
    ("a block is given back twice", "kv_cache_eviction.cc",
     "  if (!index_.contains(block)) {\n    give_back(block);", "  if (!index_.contains(block)) {\n    give_back(block);\n    give_back(block);"),
    ("promises are not returned", "kv_cache_lease.cc", "  pool_.return_promises(lease.promised_blocks);\n", ""),
    ("a block that is held counts as evictable", "kv_cache_eviction.cc",
     "index_.contains(block) && pool_.references(block) == 0 &&", "index_.contains(block) &&"),
    ("a parent may go before its child", "kv_cache_eviction.cc",
     "(index_.is_companion(block) || index_.is_leaf(block))", "true"),
    ("what was forgotten is shared again", "kv_cache_lease.cc", "lease.epoch != index_.epoch(lease.root) || ", ""),
    ("children of a forgotten block are shared", "kv_cache_lease.cc",
     " || (position > 0 && !index_.contains(parent))", ""),
    ("a time to live is ignored", "kv_cache_admission.cc", "if (is_expired(child, now)) return false;", ""),
    ("an expected block goes like any other", "eviction_order.cc",
     "const bool expected = known && expectations_[named] > 0;", "const bool expected = false;"),
    ("High goes like Normal", "eviction_order.cc",
     "standings_[named].priority == RetentionPriority::High", "false"),
    ("an expected prompt is not told of what arrives", "kv_cache_lease.cc",
     "  arrive(key, parent, lease.open_tokens, own);\n", ""),
    ("an evicted block stays expected", "kv_cache_retention.cc", "    expected->blocks.pop_back();\n", "    break;\n"),
    ("a lease does not announce what it computes", "kv_cache_admission.cc", "    announce_next_block(*lease);\n", ""),
    ("only the first block is announced", "kv_cache_lease.cc",
     "  if (was_announced) {\n    announce_next_block(lease);\n  } else {", "  if (!was_announced) {"),
    ("a fork writes into the source's block", "kv_cache_admission.cc",
     "      table.push_back(take_promised_block(lease->tenant));\n      --lease->promised_blocks;\n      "
     "copy_leading_tokens(from[full_blocks], table.back(), begun_tokens);",
     "      table.push_back(from[full_blocks]);\n      hold(table.back());"),
    ("parts are copied of blocks that may not be", "prefix_index.cc", "    if (!copyable_[block]) continue;\n", ""),
    ("a copy takes one token too few", "kv_cache_admission.cc",
     "const std::size_t used_bytes = tokens * layout_.head_dim", "const std::size_t used_bytes = (tokens - 1) * layout_.head_dim"),
    ("a tenant at its quota takes free blocks", "kv_cache_eviction.cc",
     "if (tenants_ && tenants_->is_at_quota(tenant)) {", "if (false) {"),
    ("admission ignores the quota", "tenant_ledger.cc",
     "return tenants_[tenant].claimed <= quota && blocks <= quota - tenants_[tenant].claimed;", "return quota > 0 || blocks > 0;"),
    ("a window's block is given up too early", "kv_cache_admission.cc",
     "return window == 0 || tokens < window ? 0 : (tokens - (window - 1)) / layout_.block_tokens;",
     "return window == 0 || tokens < window ? 0 : (tokens - 1) / layout_.block_tokens;"),
    ("a hit needs no window blocks", "kv_cache_admission.cc", "    path.resize(valid_blocks(path));\n", ""),
]

TIMEOUT_S = 60


def outcome_of(number, mutant, arguments):
    """How the mutant died, or None where it survived."""
    what, file, text, replacement = mutant
    source = pathlib.Path(arguments.source, "src/kv", file).read_text()
    if source.count(text) != 1:
        return False, f"its text is there {source.count(text)} times, not once: mend tests/kv/mutation_test.py"
    work = pathlib.Path(arguments.work, f"mutant{number}")
    work.mkdir(parents=True, exist_ok=True)
    mutated, program = work / file, work / "mutant_test"
    mutated.write_text(source.replace(text, replacement))
    compile_command = shlex.split(arguments.compile) + ["-c", str(mutated), "-o", str(work / "mutant.o")]
    if subprocess.run(compile_command, capture_output=True).returncode != 0:
        return False, "it does not compile: mend tests/kv/mutation_test.py"
    compiler, *objects = shlex.split(arguments.link)
    subprocess.run([compiler, str(work / "mutant.o"), *objects, "-o", str(program)], check=True)
    try:
        run = subprocess.run([str(program), "--gtest_fail_fast", "--gtest_brief=1"], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return True, "hangs"
    if run.returncode < 0:
        return True, f"ended by signal {-run.returncode}"
    if run.returncode != 0:
        failed = [line for line in run.stdout.splitlines() if line.startswith("[  FAILED  ]")]
        return True, failed[0].split("]")[1].strip() if failed else f"exit status {run.returncode}"
    return False, "SURVIVED"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("source", "work", "compile", "link"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda item: outcome_of(*item, arguments), enumerate(MUTANTS)))
    for (what, file, *_), (caught, how) in zip(MUTANTS, outcomes):
        print(f"{'caught  ' if caught else 'NOT     '} {what} ({file}): {how}")
    survivors = sum(not caught for caught, _ in outcomes)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} planted bugs were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
