// What the disk tier costs when it is opened: the index of a directory of a million records, rebuilt from the footers
// of its segments, and given back again; beside it, a copy of as many bytes as the footers have.
//
// The directory is synthetic: footers are real, the records between them are holes in the files. In TIERCEL_BENCH_DIR
// or the current directory.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tier/disk_store.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 8, .dtype = DType::F16};
constexpr Fingerprint kModel{{1, 2}};
constexpr std::size_t kSegments = 64;
constexpr std::size_t kRecords = 15'625 * kSegments;  // a million
constexpr std::size_t kPathBlocks = 50;

class SyntheticDirectory {
 public:
  SyntheticDirectory() {
    const char* base = std::getenv("TIERCEL_BENCH_DIR");
    path_ = std::string(base == nullptr ? "." : base) + "/disk_bench.kv";
    std::filesystem::remove_all(path_);
    const auto files = posix_file_system();
    if (!files->make_directory(path_).ok()) std::abort();
    std::mt19937_64 random(1);
    std::uint64_t sequence = 0;
    BlockKey parent{};
    for (std::uint64_t number = 1; number <= kSegments; ++number) {
      std::vector<disk::FooterEntry> entries;
      std::uint64_t offset = disk::kPage;
      for (std::size_t i = 0; i < kRecords / kSegments; ++i) {
        disk::RecordHeader header{};
        header.kind = disk::RecordKind::Block;
        header.fingerprint = kModel;
        header.position = static_cast<std::uint32_t>(sequence % kPathBlocks);
        header.key = {random(), random()};
        header.parent = parent;
        parent = header.key;
        header.sequence = ++sequence;
        header.tokens = kLayout.block_tokens;
        header.payload_bytes = static_cast<std::uint32_t>(kLayout.block_bytes());
        entries.push_back(disk::entry_of(header, offset));
        offset += header.record_bytes();
      }
      const disk::SegmentHeader segment = disk::make_segment_header(number);
      std::vector<std::byte> page(disk::kPage);
      std::memcpy(page.data(), &segment, sizeof segment);
      const std::string footer = disk::make_footer(entries, offset);
      footer_bytes += footer.size();
      auto file = files->open(disk::segment_path(path_, number), FileSystem::OpenMode::CreateNew).value();
      const std::span<const std::byte> head(page), tail = std::as_bytes(std::span(footer));
      if (!file->write(0, {&head, 1}).ok() || !file->write(offset, {&tail, 1}).ok()) std::abort();
    }
  }
  ~SyntheticDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

  std::size_t footer_bytes = 0;

 private:
  std::string path_;
};

void open_a_million_records(benchmark::State& state) {
  static const SyntheticDirectory directory;
  for (auto _ : state) {
    DiskStore store({.directory = directory.path(), .capacity_bytes = std::size_t{1} << 40}, posix_file_system());
    if (!store.open(kLayout, kModel).ok()) return state.SkipWithError("the directory does not open");
    if (store.stats().stored_blocks != kRecords) return state.SkipWithError("blocks are missing");
  }
  state.counters["records_per_s"] =
      benchmark::Counter(static_cast<double>(kRecords), benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(static_cast<std::int64_t>(directory.footer_bytes) * state.iterations());
}
BENCHMARK(open_a_million_records)->Unit(benchmark::kMillisecond)->Iterations(3)->UseRealTime();

void copy_the_footers(benchmark::State& state) {
  std::vector<std::byte> from(std::size_t{96} << 20), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::DoNotOptimize(to.data());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(from.size()) * state.iterations());
}
BENCHMARK(copy_the_footers)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace tiercel
