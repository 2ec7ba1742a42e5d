// A directory of the disk tier with a segment of any bytes: opened, looked into, written on. What is read back is what
// was written, or a miss. Seed it with tests/data/disk_segment.kv.
#include <cstring>
#include <vector>

#include "base/logging.h"
#include "tests/fuzz/expect.h"
#include "tests/tier/faulty_file_system.h"
#include "tier/disk_store.h"

using namespace tiercel;

namespace {

// As in tests/tier/disk_fixture.h, whose segment is the seed.
constexpr KvLayout kLayout{.layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 8, .dtype = DType::F16};
constexpr Fingerprint kModel{{11, 22}};

struct Block {
  BlockKey key, parent;
  std::vector<TokenId> tokens;
  std::vector<std::byte> bytes;
};

Block block(std::uint64_t number) {
  Block block{.key = {(std::uint64_t{7} << 32) + number, number}, .parent = {number, 9}, .tokens = {}, .bytes = {}};
  for (std::uint64_t i = 0; i < kLayout.block_tokens; ++i)
    block.tokens.push_back(static_cast<TokenId>(10 * number + i));
  block.bytes.assign(kLayout.block_bytes(), static_cast<std::byte>(number));
  return block;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  log().set_level(spdlog::level::off);
  const auto files = std::make_shared<FaultyFileSystem>();
  TIERCEL_FUZZ_EXPECT(files->make_directory("/kv").ok());
  files->set_contents(disk::segment_path("/kv", 1), std::as_bytes(std::span(data, size)));
  DiskTierOptions options{.directory = "/kv"};
  options.capacity_bytes = std::size_t{1} << 20;
  options.segment_bytes = std::size_t{64} << 10;
  for (int restart = 0; restart < 2; ++restart) {
    DiskStore store(options, files);
    TIERCEL_FUZZ_EXPECT(store.open(kLayout, kModel).ok());
    for (std::uint64_t number = 1; number <= 12; ++number) {
      const Block own = block(number);
      const TierRecord record{.key = own.key, .parent = own.parent, .tokens = own.tokens, .bytes = own.bytes};
      TIERCEL_FUZZ_EXPECT(store.write({&record, 1}).ok());
      std::vector<std::byte> bytes(own.bytes.size());
      TierRead read{.key = own.key, .parent = own.parent, .tokens = own.tokens, .bytes = bytes};
      store.read({&read, 1});
      TIERCEL_FUZZ_EXPECT(!read.status.ok() || bytes == own.bytes);
    }
    TIERCEL_FUZZ_EXPECT(store.erase({1, 1}, {}).ok());
    TIERCEL_FUZZ_EXPECT(store.flush().ok());
  }
  return 0;
}
