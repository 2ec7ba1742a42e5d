// How fast the disk tier's reads are, against what the disk and memory give: in TIERCEL_BENCH_DIR, else here.
//
// 61 records of an envelope and a block, which is some 2,000 tokens of a small model. `direct` is a plain sequential
// read with O_DIRECT, `uncached` what BatchReader makes of the same bytes after they left the page cache; `copy` is
// memcpy, `cached` what BatchReader makes of bytes in the page cache.
//
// Disks drift, so compare with --benchmark_enable_random_interleaving=true --benchmark_repetitions=15.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tier/batch_reader.h"
#include "tier/file_system.h"

namespace tiercel {
namespace {

constexpr std::size_t kRecords = 61;
constexpr std::size_t kEnvelopeBytes = 4096, kBlockBytes = 737'280;
constexpr std::size_t kRecordBytes = kEnvelopeBytes + kBlockBytes;
constexpr std::size_t kBytes = kRecords * kRecordBytes;

std::byte* allocate(std::size_t bytes) {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, bytes));
  std::memset(memory, 1, bytes);
  return memory;
}

class RecordFile {
 public:
  RecordFile() {
    const char* directory = std::getenv("TIERCEL_BENCH_DIR");
    std::string path = std::string(directory == nullptr ? "." : directory) + "/tiercel_file_bench_XXXXXX";
    buffered_ = ::mkstemp(path.data());
    direct_ = ::open(path.c_str(), O_RDONLY | O_DIRECT);
    ::unlink(path.c_str());
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < kBytes; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(memory_ + i, &word, 8);
    }
    if (buffered_ < 0 || ::pwrite(buffered_, memory_, kBytes, 0) != static_cast<ssize_t>(kBytes)) {
      std::perror("cannot write the file of the benchmark");
      std::exit(1);
    }
    ::fdatasync(buffered_);
  }

  int direct() const { return direct_; }
  std::byte* memory() const { return memory_; }
  void leave_page_cache() const { ::posix_fadvise(buffered_, 0, 0, POSIX_FADV_DONTNEED); }
  void enter_page_cache() const {
    if (::pread(buffered_, memory_, kBytes, 0) != static_cast<ssize_t>(kBytes)) std::exit(1);
  }

  // Each record as the disk tier reads it: the envelope to a place of its own, the block to where it belongs.
  std::vector<BatchRead> reads(std::byte* target) const {
    std::vector<BatchRead> reads;
    for (std::size_t i = 0; i < kRecords; ++i) {
      const auto add = [&](std::uint64_t offset, std::byte* to, std::size_t bytes) {
        reads.push_back({buffered_, direct_, offset, {to, bytes}});
      };
      add(i * kRecordBytes, target + i * kEnvelopeBytes, kEnvelopeBytes);
      add(i * kRecordBytes + kEnvelopeBytes, target + kRecords * kEnvelopeBytes + i * kBlockBytes, kBlockBytes);
    }
    return reads;
  }

 private:
  std::byte* const memory_ = allocate(kBytes);
  int buffered_ = -1;
  int direct_ = -1;
};

const RecordFile& file() {
  static const RecordFile file;
  return file;
}

std::byte* target() {
  static std::byte* const target = allocate(kBytes);
  return target;
}

// Runs `read` with its time taken alone; `prepare` is not counted.
template <class Prepare, class Read>
void measure(benchmark::State& state, const Prepare& prepare, const Read& read) {
  for (auto _ : state) {
    prepare();
    const auto begin = std::chrono::steady_clock::now();
    if (!read()) state.SkipWithError("cannot read");
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kBytes));
}

bool read_batch(BatchReader& reader) {
  auto reads = file().reads(target());
  reader.read(reads);
  return std::all_of(reads.begin(), reads.end(), [](const BatchRead& read) { return read.status.ok(); });
}

// `piece_kib` at a time, one after the other.
void direct(benchmark::State& state) {
  const auto piece = static_cast<std::size_t>(state.range(0)) << 10;
  measure(
      state, [] { file().leave_page_cache(); },
      [&] {
        for (std::size_t offset = 0; offset < kBytes; offset += piece) {
          const std::size_t bytes = std::min(piece, kBytes - offset);
          const ssize_t got = ::pread(file().direct(), target() + offset, bytes, static_cast<off_t>(offset));
          if (got != static_cast<ssize_t>(bytes)) return false;
        }
        return true;
      });
}

void uncached(benchmark::State& state, BatchReader::Method method) {
  BatchReader reader(method);
  measure(
      state, [] { file().leave_page_cache(); }, [&] { return read_batch(reader); });
}

void cached(benchmark::State& state, BatchReader::Method method) {
  BatchReader reader(method);
  file().enter_page_cache();
  measure(
      state, [] {}, [&] { return read_batch(reader); });
}

void copy(benchmark::State& state) {
  measure(
      state, [] {},
      [&] {
        std::memcpy(target(), file().memory(), kBytes);
        benchmark::ClobberMemory();
        return true;
      });
}

void configure(benchmark::internal::Benchmark* benchmark) { benchmark->UseManualTime()->Unit(benchmark::kMillisecond); }
BENCHMARK(direct)->ArgName("piece_kib")->Arg(256)->Arg(1024)->Arg(2048)->Arg(8192)->Apply(configure);
BENCHMARK_CAPTURE(uncached, fastest, BatchReader::Method::Fastest)->Apply(configure);
BENCHMARK_CAPTURE(uncached, threads, BatchReader::Method::Threads)->Apply(configure);
BENCHMARK(copy)->Apply(configure);
BENCHMARK_CAPTURE(cached, fastest, BatchReader::Method::Fastest)->Apply(configure);
BENCHMARK_CAPTURE(cached, threads, BatchReader::Method::Threads)->Apply(configure);

}  // namespace
}  // namespace tiercel
