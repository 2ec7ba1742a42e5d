// The disk tier as a store, against what the disk and memory give: in TIERCEL_BENCH_DIR, else here.
//
// Blocks are those of SmolLM2-135M in f16, 737,280 bytes; 61 of them are some 2,000 tokens. `read_cached` is beside
// `copy`, memcpy of as many bytes; `read_uncached` beside `direct`, a plain sequential read with O_DIRECT; `write` ends
// with a flush(), beside `write_plain`, which writes and syncs as many bytes and nothing else. `open_million` builds
// the index from the footers of a million records, in sparse files of the default size.
//
// Disks drift, so compare with --benchmark_enable_random_interleaving=true --benchmark_repetitions=15.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tier/aligned_buffer.h"
#include "tier/disk_format.h"
#include "tier/disk_segment.h"
#include "tiercel/disk_tier.h"

namespace tiercel {
namespace {

constexpr KvLayout kLayout{.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 32, .dtype = DType::F16};
constexpr std::size_t kBlockBytes = kLayout.block_bytes();
constexpr std::size_t kBlocks = 61;
constexpr std::size_t kBytes = kBlocks * kBlockBytes;
constexpr Fingerprint kModel{{1, 2}};

class Directory {
 public:
  Directory() {
    const char* base = std::getenv("TIERCEL_BENCH_DIR");
    path_ = std::string(base == nullptr ? "." : base) + "/tiercel_disk_bench_XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) std::perror("cannot make the directory of the benchmark"), std::exit(1);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string kv() const { return path_ + "/kv"; }
  std::string file() const { return path_ + "/file"; }

 private:
  std::string path_;
};

std::shared_ptr<TierStore> open_store(const Directory& directory) {
  auto store = disk_tier({.directory = directory.kv()}).value();
  if (!store->open(kLayout, kModel).ok()) std::exit(1);
  return store;
}

BlockKey key_of(std::uint64_t number) { return {.low = number * 0x9e3779b97f4a7c15u, .high = number}; }

// A path of blocks, to be written and read.
struct Path {
  Path() : tokens(kBlocks * kLayout.block_tokens), memory(buffer.take(2 * kBytes)) {
    std::mt19937_64 random(1);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 50'000);
    for (std::size_t i = 0; i < kBytes; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(memory.data() + i, &word, 8);
    }
  }
  std::span<const TokenId> tokens_of(std::size_t i) const {
    return std::span(tokens).subspan(i * kLayout.block_tokens, kLayout.block_tokens);
  }
  std::vector<TierRecord> records(std::uint64_t first) const {
    std::vector<TierRecord> records;
    for (std::size_t i = 0; i < kBlocks; ++i) {
      records.push_back({.key = key_of(first + i + 1),
                         .parent = key_of(first + i),
                         .tokens = tokens_of(i),
                         .bytes = memory.subspan(i * kBlockBytes, kBlockBytes),
                         .position = static_cast<std::uint32_t>(i)});
    }
    return records;
  }
  std::vector<TierRead> reads() const {
    std::vector<TierRead> reads;
    for (std::size_t i = 0; i < kBlocks; ++i) {
      reads.push_back({.key = key_of(i + 1),
                       .parent = key_of(i),
                       .tokens = tokens_of(i),
                       .bytes = memory.subspan(kBytes + i * kBlockBytes, kBlockBytes)});
    }
    return reads;
  }

  AlignedBuffer buffer;
  std::vector<TokenId> tokens;
  std::span<std::byte> memory;  // what is written, then what was read
};

Path& path() {
  static Path path;
  return path;
}

// Runs `timed` with its time taken alone; `prepare` is not counted.
template <class Prepare, class Timed>
void measure(benchmark::State& state, const Prepare& prepare, const Timed& timed) {
  for (auto _ : state) {
    prepare();
    const auto begin = std::chrono::steady_clock::now();
    if (!timed()) state.SkipWithError("failed");
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kBytes));
}

void leave_page_cache(const std::string& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY);
  ::fdatasync(descriptor);
  ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  ::close(descriptor);
}

void read(benchmark::State& state, bool cached) {
  const Directory directory;
  const auto store = open_store(directory);
  if (!store->write(path().records(0)).ok() || !store->flush().ok()) return state.SkipWithError("cannot write");
  const auto read_all = [&] {
    auto reads = path().reads();
    store->read(reads);
    bool ok = true;
    for (const TierRead& read : reads) ok = ok && read.status.ok();
    return ok;
  };
  read_all();
  const auto prepare = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(directory.kv())) leave_page_cache(entry.path());
  };
  cached ? measure(
               state, [] {}, read_all)
         : measure(state, prepare, read_all);
}

void copy(benchmark::State& state) {
  const auto all = path().memory;
  measure(
      state, [] {},
      [&] {
        std::memcpy(all.data() + kBytes, all.data(), kBytes);
        benchmark::ClobberMemory();
        return true;
      });
}

void direct(benchmark::State& state) {
  const Directory directory;
  constexpr std::size_t kPiece = std::size_t{2} << 20;
  const auto all = path().memory;
  const int written = ::open(directory.file().c_str(), O_RDWR | O_CREAT, 0600);
  const int descriptor = ::open(directory.file().c_str(), O_RDONLY | O_DIRECT);
  if (::pwrite(written, all.data(), kBytes, 0) != static_cast<ssize_t>(kBytes))
    return state.SkipWithError("cannot write");
  measure(
      state, [&] { leave_page_cache(directory.file()); },
      [&] {
        for (std::size_t at = 0; at < kBytes; at += kPiece) {
          const std::size_t bytes = std::min(kPiece, kBytes - at);
          const ssize_t got = ::pread(descriptor, all.data() + kBytes + at, bytes, static_cast<off_t>(at));
          if (got != static_cast<ssize_t>(bytes)) return false;
        }
        return true;
      });
  ::close(descriptor);
  ::close(written);
}

void write(benchmark::State& state) {
  const Directory directory;
  const auto store = open_store(directory);
  std::uint64_t first = 0;
  measure(
      state, [&] { first += 1000; }, [&] { return store->write(path().records(first)).ok() && store->flush().ok(); });
}

void write_plain(benchmark::State& state) {
  const Directory directory;
  const int descriptor = ::open(directory.file().c_str(), O_RDWR | O_CREAT, 0600);
  off_t end = 0;
  measure(
      state, [] {},
      [&] {
        const ssize_t written = ::pwrite(descriptor, path().memory.data(), kBytes, end);
        end += written;
        return written == static_cast<ssize_t>(kBytes) && ::fdatasync(descriptor) == 0;
      });
  ::close(descriptor);
}

// Footers as a store writes them, records as holes: a directory whose blocks are known, and corrupt when they are read.
void make_sparse_directory(const std::string& directory, std::size_t records) {
  constexpr std::size_t kSegmentBytes = std::size_t{64} << 20;
  std::filesystem::create_directory(directory);
  std::uint64_t number = 0;
  for (std::uint64_t record = 0; record < records;) {
    ++number;
    std::vector<disk::FooterEntry> entries;
    std::uint64_t end = disk::kPage;
    while (record < records) {
      disk::RecordHeader header{};
      header.kind = disk::RecordKind::Block;
      header.fingerprint = kModel;
      header.key = key_of(record + 1);
      header.parent = key_of(record);
      header.sequence = ++record;
      header.position = static_cast<std::uint32_t>((record - 1) % kBlocks);
      header.tokens = kLayout.block_tokens;
      header.payload_bytes = kBlockBytes;
      entries.push_back(disk::entry_of(header, end));
      end += header.record_bytes();
      if (end + header.record_bytes() + disk::kPage * 4 > kSegmentBytes) break;
    }
    const auto header = disk::make_segment_header(number);
    const std::string footer = disk::make_footer(entries, end);
    const int file = ::open(disk::segment_path(directory, number).c_str(), O_WRONLY | O_CREAT, 0600);
    const bool written =
        ::pwrite(file, &header, sizeof header, 0) == static_cast<ssize_t>(sizeof header) &&
        ::pwrite(file, footer.data(), footer.size(), static_cast<off_t>(end)) == static_cast<ssize_t>(footer.size());
    ::close(file);
    if (!written) std::perror("cannot write a segment"), std::exit(1);
  }
}

void open_million(benchmark::State& state) {
  constexpr std::size_t kRecords = 1'000'000;
  const Directory directory;
  make_sparse_directory(directory.kv(), kRecords);
  for (auto _ : state) {
    const auto store = disk_tier({.directory = directory.kv(), .read_only = true}).value();
    const auto begin = std::chrono::steady_clock::now();
    if (!store->open(kLayout, kModel).ok()) state.SkipWithError("cannot open");
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (store->stats().stored_blocks != kRecords) state.SkipWithError("blocks are missing");
  }
}

void configure(benchmark::internal::Benchmark* benchmark) { benchmark->UseManualTime()->Unit(benchmark::kMillisecond); }
BENCHMARK(copy)->Apply(configure);
BENCHMARK_CAPTURE(read, cached, true)->Apply(configure);
BENCHMARK(direct)->Apply(configure);
BENCHMARK_CAPTURE(read, uncached, false)->Apply(configure);
BENCHMARK(write_plain)->Iterations(10)->Apply(configure);
BENCHMARK(write)->Iterations(10)->Apply(configure);
BENCHMARK(open_million)->Iterations(3)->Apply(configure);

}  // namespace
}  // namespace tiercel
